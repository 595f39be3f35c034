//! A quiet connection, and how long its peer waits for each answer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use network::Server;

const PAUSE: Duration = Duration::from_millis(5);

pub struct Ping {
    _server: Server,
    client: TcpStream,
    thread: JoinHandle<Vec<Duration>>,
}

impl Ping {
    pub fn start() -> Ping {
        let server = Server::builder().address("127.0.0.1").tls(false);
        let server = server.listen("0", |socket| {
            socket.read(|socket, data| socket.send(data));
            Ok(())
        });
        let server = server.unwrap();
        let client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        client.set_nodelay(true).unwrap();
        let mut peer = client.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let mut times = Vec::new();
            let mut buffer = [b'p'; 64];
            loop {
                let sent = Instant::now();
                let answered = peer.write_all(&buffer).and_then(|()| peer.read_exact(&mut buffer));
                // One that was cut off has waited as well.
                times.push(sent.elapsed());
                if answered.is_err() {
                    return times;
                }
                std::thread::sleep(PAUSE);
            }
        });
        Ping { _server: server, client, thread }
    }

    /// The time that 99 of 100 answers took at the most.
    pub fn end(self) -> Duration {
        let _ = self.client.shutdown(Shutdown::Both);
        let mut times = self.thread.join().unwrap();
        times.sort();
        times[(times.len() * 99 / 100).min(times.len() - 1)]
    }
}
