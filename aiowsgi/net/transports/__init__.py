"""What connects accepted sockets: transports of our own where there is epoll, else the loop's."""
