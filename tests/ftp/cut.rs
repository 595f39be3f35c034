//! Data connections over TLS that end without a close_notify: somebody on the way may have cut them off.

use std::process::Command;

use network::Error;
use network::ftp::Status;

use super::common::{Process, TempDir, Watch, await_it, on_own_context, tool};
use super::servers::Tls;
use super::{common, servers};

/// Serves one session over TLS. `size` is what it tells of the file, `sent` how much of it comes.
const PYTHON: &str = r#"
import socket, ssl, sys
certificate, size, sent = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
listener = socket.create_server(("127.0.0.1", 0))
data = socket.create_server(("127.0.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
control = listener.accept()[0]
control.sendall(b"220 x\r\n")
assert control.recv(100) == b"AUTH TLS\r\n"
control.sendall(b"234 x\r\n")
control = context.wrap_socket(control, server_side=True)
replies = {"USER": "230 x", "FEAT": "502 x", "PWD": '257 "/"', "PBSZ": "200 x", "PROT": "200 x", "TYPE": "200 x",
           "MDTM": "213 20200101000000", "SIZE": f"213 {size}" if size else "550 x"}
for line in control.makefile("r", newline="\r\n"):
    name = line.split()[0]
    if name == "EPSV":
        control.sendall(b"229 (|||%d|)\r\n" % data.getsockname()[1])
    elif name == "RETR":
        connection = data.accept()[0]
        control.sendall(b"150 x\r\n")
        connection = context.wrap_socket(connection, server_side=True)
        connection.sendall(b"x" * sent)
        # Without unwrap(): no close_notify.
        connection.close()
        control.sendall(b"226 x\r\n")
    else:
        control.sendall((replies.get(name, "502 x") + "\r\n").encode())
"#;

/// What a download says that such a server sends, and what is left of it here.
fn download(face: usize, size: &str, sent: usize) -> (network::Result<Status>, Option<u64>, bool) {
    let directory = TempDir::new();
    servers::certify(&directory);
    let mut python: Command = tool("/usr/bin/python3");
    python.args(["-c", PYTHON, &directory.address("both.pem"), size, &sent.to_string()]);
    let process = Process::start(&mut python, Watch::Stdout);
    let port = process.port("port");
    let result = on_own_context(|| {
        let address = format!("127.0.0.1:{port}");
        let client = servers::trusting(&directory, Tls::Explicit).connect(&address).unwrap();
        client.login("joe", "x").unwrap();
        let transfer = client.download("file", directory.path("to"));
        let result = match face {
            0 => transfer.send(),
            1 => common::told(|done| transfer.send_async(gio::Cancellable::NONE, done)),
            _ => await_it(transfer.send_future()),
        };
        assert_eq!(client.working_directory().unwrap().directory, "/", "the session is usable");
        result.map(|response| response.status)
    });
    let part = std::fs::metadata(directory.path("to.part")).ok().map(|found| found.len());
    (result, part, directory.path("to").exists())
}

#[test]
fn a_cut_is_not_taken_for_the_end_of_a_file() {
    for face in 0..3 {
        // All has come that the server has told of over the control connection.
        let (result, part, is_there) = download(face, "5000", 5000);
        assert_eq!((result.unwrap(), part, is_there), (Status::CLOSING_DATA_CONNECTION, None, true));
        for (size, sent) in [("", 5000), ("5000", 2000), ("5000", 0), ("", 0)] {
            let (result, part, is_there) = download(face, size, sent);
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{sent} of {size:?}: {error}");
            assert_eq!(error.ftp_status(), Status::CONNECTION_CLOSED);
            assert_eq!((part, is_there), (Some(sent as u64), false), "{sent} of {size:?}");
        }
    }
}
