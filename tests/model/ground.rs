//! Where a schedule runs: a main context of its own, and what joins two ends on it.

use std::cell::{Cell, RefCell};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use network::{ClientTls, Server, ServerTls, Socket, socket::SocketBuilder, tls::StartTls};

use crate::idle::{Sleep, Watcher};
use crate::program::{Kind, Program, Settings};
use crate::raw::Raw;

/// Longer than any schedule may take: what is queued goes out because it is read, not because the time is up.
const LINGER: Duration = Duration::from_secs(10);

/// What a wrapped input still holds is not read away, for it may be a terminal. So two ends that are both closed with their
/// queues full wait for each other that long.
const WRAPPED_LINGER: Duration = Duration::from_secs(1);

const SMALL: usize = 16 << 10;

/// The send limit of programs with a small queue.
pub const SMALL_LIMIT: usize = 50_000;

pub struct Ground {
    listener: TcpListener,
    tls: Server,
    watcher: Watcher,
    /// What the loop waits for when there is nothing but this.
    pub at_rest: Sleep,
}

/// The end of a program of ours, or a descriptor.
pub enum Made {
    Socket(Socket),
    Raw(Raw),
}

/// Where this run's certificates are.
fn certificates() -> &'static std::path::Path {
    static DIRECTORY: std::sync::LazyLock<tempfile::TempDir> =
        std::sync::LazyLock::new(|| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    DIRECTORY.path()
}

fn with_settings(settings: Settings) -> SocketBuilder {
    let mut builder = Socket::builder().timeout(Duration::ZERO);
    builder = builder.linger(if settings.no_linger { Duration::ZERO } else { LINGER });
    if settings.short_lines {
        builder = builder.line_limit(200);
    }
    if let Some(size) = settings.read_size {
        builder = builder.read_size(size);
    }
    if settings.small_queue {
        builder = builder.send_limit(SMALL_LIMIT).high_water_mark(2000).low_water_mark(500);
    }
    builder
}

impl Ground {
    pub fn new() -> Ground {
        let tls = Server::builder()
            .tls(ServerTls::new().directory(certificates()))
            .timeout(Duration::ZERO)
            .linger(LINGER)
            .bind("127.0.0.1:0")
            .unwrap();
        let watcher = Watcher::new();
        let at_rest = watcher.sleep();
        assert!(at_rest.for_ever);
        let ground = Ground { listener: TcpListener::bind("127.0.0.1:0").unwrap(), tls, watcher, at_rest };
        // What stands for the descriptor of a closed socket is opened once, for the whole process.
        let (closed, _) = unix_pair(Settings::default());
        let closed = Socket::from_fd(closed).unwrap();
        closed.abort();
        assert!(rustix::fs::fstat(&closed).is_ok());
        drop(closed);
        while network::iteration(false) {}
        ground
    }

    pub fn sleep(&self) -> Sleep {
        self.watcher.sleep()
    }

    pub fn join(&self, program: &Program) -> (Made, Made) {
        let settings = program.settings;
        if settings.starts_later {
            let (a, b) = self.join_and_start_tls(program.kind, settings);
            return (Made::Socket(a), Made::Socket(b));
        }
        if program.kind == Kind::Tls {
            let (a, b) = self.join_by_tls(settings);
            return (Made::Socket(a), Made::Socket(b));
        }
        let (a, b) = self.descriptors(program.kind, settings);
        let b =
            if program.raw_b { Made::Raw(Raw::new(b, program.kind)) } else { Made::Socket(b.into_socket(settings)) };
        (Made::Socket(a.into_socket(settings)), b)
    }

    fn descriptors(&self, kind: Kind, settings: Settings) -> (Fds, Fds) {
        match kind {
            Kind::Tcp | Kind::Tls => {
                let a = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
                let b = self.listener.accept().unwrap().0;
                for end in [&a, &b] {
                    shrink(end, settings);
                }
                (Fds::One(a.into()), Fds::One(b.into()))
            }
            Kind::Unix => {
                let (a, b) = unix_pair(settings);
                (Fds::One(a), Fds::One(b))
            }
            Kind::Wrapped => {
                let (a_in, b_out) = unix_pair(settings);
                let (a_out, b_in) = unix_pair(settings);
                (Fds::Two(a_in, a_out), Fds::Two(b_in, b_out))
            }
            Kind::Pipes => {
                let (from_a, into_b) = pipe(settings);
                let (from_b, into_a) = pipe(settings);
                (Fds::Two(from_b, into_b), Fds::Two(from_a, into_a))
            }
        }
    }

    /// Joins two ends in plaintext, and then starts TLS on both.
    fn join_and_start_tls(&self, kind: Kind, settings: Settings) -> (Socket, Socket) {
        static SERVER: std::sync::LazyLock<ServerTls> =
            std::sync::LazyLock::new(|| ServerTls::new().directory(certificates()).prepared().unwrap());
        let (a, b) = self.descriptors(kind, settings);
        let (a, b) = (a.into_socket(settings), b.into_socket(settings));
        let done = Rc::new(Cell::new(0));
        let start = |socket: &Socket, role: StartTls| {
            let done = done.clone();
            socket.start_tls_async(role, gio::Cancellable::NONE, move |_, result| {
                result.unwrap();
                done.set(done.get() + 1);
            });
        };
        start(&a, ClientTls::danger_accept_any().server_name("localhost").into());
        start(&b, SERVER.clone().into());
        while done.get() < 2 {
            network::iteration(true);
        }
        (a, b)
    }

    fn join_by_tls(&self, settings: Settings) -> (Socket, Socket) {
        let context = glib::MainContext::ref_thread_default();
        let (client, served) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
        let builder = with_settings(settings).tls(ClientTls::new().directory(certificates()));
        let address = format!("127.0.0.1:{}", self.tls.port());
        let connecting = context.spawn_local({
            let client = client.clone();
            async move {
                client.replace(Some(builder.connect_future(address.as_str()).await.unwrap()));
            }
        });
        let accepting = context.spawn_local({
            let (server, served) = (self.tls.clone(), served.clone());
            async move {
                served.replace(Some(server.accept_future().await.unwrap()));
            }
        });
        while client.borrow().is_none() || served.borrow().is_none() {
            network::iteration(true);
        }
        drop((connecting, accepting));
        let (client, served) = (client.take().unwrap(), served.take().unwrap());
        // The rest of the settings has no setter after the fact, and is the client's alone.
        if settings.no_linger {
            served.set_linger(Duration::ZERO);
        }
        if settings.short_lines {
            served.set_line_limit(200);
        }
        if let Some(size) = settings.read_size {
            served.set_read_size(size);
        }
        if settings.small_queue {
            served.set_send_limit(SMALL_LIMIT);
            served.set_high_water_mark(2000);
            served.set_low_water_mark(500);
        }
        for end in [&client, &served] {
            shrink(end, settings);
        }
        (client, served)
    }
}

/// One descriptor for both directions, or one to read from and one to write to.
pub enum Fds {
    One(OwnedFd),
    Two(OwnedFd, OwnedFd),
}

impl Fds {
    fn into_socket(self, settings: Settings) -> Socket {
        match self {
            Fds::One(fd) => with_settings(settings).from_fd(fd).unwrap(),
            Fds::Two(input, output) => {
                let linger = if settings.no_linger { Duration::ZERO } else { WRAPPED_LINGER };
                with_settings(settings).linger(linger).wrap(input, output).unwrap()
            }
        }
    }
}

/// Gives it small buffers in the kernel, if the program has them.
fn shrink(end: impl AsFd, settings: Settings) {
    if settings.small_buffers {
        rustix::net::sockopt::set_socket_send_buffer_size(&end, SMALL).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&end, SMALL).unwrap();
    }
}

fn unix_pair(settings: Settings) -> (OwnedFd, OwnedFd) {
    let (a, b) = UnixStream::pair().unwrap();
    for end in [&a, &b] {
        shrink(end, settings);
    }
    (a.into(), b.into())
}

fn pipe(settings: Settings) -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    if settings.small_buffers {
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    }
    (reader.into(), writer.into())
}
