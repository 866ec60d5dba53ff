"""An HTTP/2 server on python-h2: answers each request with what it was sent. usage: server.py PORT KEY CERTIFICATE"""
import socket, ssl, sys
import h2.config, h2.connection, h2.events

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[3], sys.argv[2])
context.set_alpn_protocols(["h2"])
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    try:
        s = context.wrap_socket(listener.accept()[0], server_side=True)
    except (OSError, ssl.SSLError):
        continue
    c = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    c.initiate_connection()
    s.sendall(c.data_to_send())
    bodies = {}
    while data := s.recv(65536):
        for e in c.receive_data(data):
            if isinstance(e, h2.events.RequestReceived):
                bodies[e.stream_id] = b""
            elif isinstance(e, h2.events.DataReceived):
                bodies[e.stream_id] += e.data
                c.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            elif isinstance(e, h2.events.StreamEnded):
                c.send_headers(e.stream_id, [(":status", "200"), ("server", "python-h2")])
                c.send_data(e.stream_id, bodies.pop(e.stream_id), end_stream=True)
        s.sendall(c.data_to_send())
