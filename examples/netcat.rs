//! Joins standard input and output to a peer: `netcat localhost:1234`, `netcat --listen /tmp/socket`.
//!
//! At the end of its input it half-closes and waits for the peer's end. If the peer ends first, it goes on sending until
//! its input ends or pauses for half a second. Status 0: a clean end. Status 1: anything else, with one line that says why.
//! As a client it dies by SIGINT and SIGTERM as other tools do; as a listener it ends cleanly by them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use network::{Disconnect, Endpoint, Error, Reason, Server, Socket};

/// With more than this waiting to be sent, nothing more is read.
const MARK: usize = 1 << 20;

/// After the peer's end, input that pauses this long is over as well.
const PAUSE: Duration = Duration::from_millis(500);

/// A slow reader gets all the time it wants.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Joins standard input and output to a peer.
#[derive(Parser)]
struct Args {
    /// host:port, [IPv6]:port, port, or a path with a slash
    address: String,
    /// Listen, serve the first connection and end with it
    #[arg(short, long)]
    listen: bool,
    /// Go on serving: joined clients one after the other, echoed ones all at once
    #[arg(short, long, requires = "listen")]
    keep: bool,
    /// Send back what comes, instead of joining it to standard input and output
    #[arg(short, long, requires = "listen")]
    echo: bool,
    /// Say on standard error what is listened on
    #[arg(short, long)]
    verbose: bool,
}

fn main() -> ExitCode {
    // What goes wrong is told here, once.
    glib::log_set_writer_func(|_, _| glib::LogWriterOutput::Handled);
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            // The first paragraph; the rest is advice.
            let text = error.to_string();
            let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            return fail(&lines.join(" ").trim_start_matches("error: "));
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match if args.listen { listen(&args) } else { connect(&args) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("netcat: {}", why.to_string().replace('\n', " "));
    ExitCode::FAILURE
}

fn connect(args: &Args) -> network::Result {
    network::catch_signals(false);
    let outcome = Rc::new(OnceCell::new());
    let done = outcome.clone();
    Join::start(Socket::connect(args.address.as_str())?, move |result| {
        let _ = done.set(result);
        network::endloop();
    })?;
    while outcome.get().is_none() {
        network::fgloop();
    }
    Rc::into_inner(outcome).and_then(OnceCell::into_inner).unwrap_or(Ok(()))
}

/// Serves clients as they come.
struct Listening {
    echo: bool,
    keep: bool,
    server: OnceCell<Server>,
    /// Clients that wait for standard input and output.
    waiting: RefCell<VecDeque<Socket>>,
    busy: Cell<bool>,
    outcome: RefCell<network::Result>,
}

fn listen(args: &Args) -> network::Result {
    let outcome = RefCell::new(Ok(()));
    let (waiting, busy) = (RefCell::default(), Cell::new(false));
    let listening =
        Rc::new(Listening { echo: args.echo, keep: args.keep, server: OnceCell::new(), waiting, busy, outcome });
    let accept = listening.clone();
    let server = Server::builder().linger(PATIENCE).listen(args.address.as_str(), move |socket| {
        if !accept.keep
            && let Some(server) = accept.server.get()
        {
            server.close();
        }
        if accept.echo {
            accept.echo(&socket)
        } else {
            accept.enqueue(socket)
        }
        Ok(())
    })?;
    if args.verbose {
        let place = if server.port() == 0 { args.address.clone() } else { format!("port {}", server.port()) };
        eprintln!("listening on {place}");
    }
    let _ = listening.server.set(server);
    network::fgloop();
    listening.outcome.replace(Ok(()))
}

impl Listening {
    fn echo(self: &Rc<Self>, socket: &Socket) {
        let me = self.clone();
        socket.disconnect_cb(move |socket, end| {
            after_flush(socket, move |sent| {
                me.served(match end.reason {
                    Reason::Failed(error) => Err(error),
                    _ => sent,
                });
            });
        });
        pump(socket, Rc::new(|_| {}));
    }

    fn enqueue(self: &Rc<Self>, socket: Socket) {
        self.waiting.borrow_mut().push_back(socket);
        self.join_next();
    }

    fn join_next(self: &Rc<Self>) {
        while !self.busy.get() {
            let Some(socket) = self.waiting.borrow_mut().pop_front() else { return };
            self.busy.set(true);
            let me = self.clone();
            if let Err(error) = Join::start(socket, move |result| me.served(result)) {
                self.served(Err(error));
            }
        }
    }

    fn served(self: &Rc<Self>, result: network::Result) {
        self.busy.set(false);
        if !self.keep {
            *self.outcome.borrow_mut() = result;
            network::endloop();
            return;
        }
        if let Err(error) = result {
            fail(&error);
        }
        self.join_next();
    }
}

/// One peer, standard input and standard output. The two directions end on their own, so each is a socket of its own that
/// sends on what it reads: `up` from the input to the peer, `down` from the peer to the output.
struct Join {
    name: Endpoint,
    peer: OwnedFd,
    up: Socket,
    down: Socket,
    /// Part of the input is on its way; it has moved since this was last looked at.
    unsent: Cell<bool>,
    moved: Cell<bool>,
    up_ended: Cell<Option<network::Result>>,
    down_ended: Cell<bool>,
    done: RefCell<Option<Done>>,
}

type Done = Box<dyn FnOnce(network::Result)>;

impl Join {
    fn start(socket: Socket, done: impl FnOnce(network::Result) + 'static) -> network::Result {
        let name = socket.remote();
        let (peer, early) = socket.into_fd()?;
        rustix::io::ioctl_fionbio(&peer, true).map_err(io::Error::from)?;
        let wrap = |input: &dyn AsFd, output: &dyn AsFd| {
            let (input, output) = (input.as_fd().try_clone_to_owned()?, output.as_fd().try_clone_to_owned()?);
            Socket::builder().linger(PATIENCE).wrap(input, output)
        };
        let (up, down) = (wrap(&io::stdin(), &peer)?, wrap(&peer, &io::stdout())?);
        let (moved, unsent) = (Cell::new(false), Cell::new(false));
        let done = RefCell::new(Some(Box::new(done) as Done));
        let (up_ended, down_ended) = (Cell::new(None), Cell::new(false));
        let me = Rc::new(Join { name, peer, up, down, unsent, moved, up_ended, down_ended, done });
        me.down.send(early)?;
        let up = me.clone();
        me.up.disconnect_cb(move |socket, end| up.up_ends(socket, end));
        let down = me.clone();
        me.down.disconnect_cb(move |socket, end| down.down_ends(socket, end));
        let moves = me.clone();
        let moved = move |up: &Socket| {
            moves.moved.set(true);
            moves.unsent.set(true);
            let moves = moves.clone();
            up.flush_async(move |sent| moves.unsent.set(sent.is_err()));
        };
        pump(&me.up, Rc::new(moved));
        pump(&me.down, Rc::new(|_| {}));
        Ok(())
    }

    /// The input is at its end, or the peer takes no more.
    fn up_ends(self: Rc<Self>, socket: &Socket, end: Disconnect) {
        after_flush(socket, move |sent| {
            let result = match end.reason {
                Reason::Failed(Error::Closed { .. }) => {
                    // A TCP peer that is gone has refused something; one on a unix socket may have had it all.
                    let lost = self.unsent.get() || self.name.inet().is_some();
                    if lost { Err(Error::Closed { peer: self.name.to_string() }) } else { Ok(()) }
                }
                Reason::Failed(error) => Err(error),
                _ => sent,
            };
            let _ = rustix::net::shutdown(&self.peer, rustix::net::Shutdown::Write);
            if self.down_ended.get() { self.end(result) } else { self.up_ended.set(Some(result)) }
        });
    }

    /// The peer is at its end, or nobody reads our output any more.
    fn down_ends(self: Rc<Self>, socket: &Socket, end: Disconnect) {
        after_flush(socket, move |sent| match (end.reason, sent) {
            (Reason::Failed(Error::Closed { .. }), _) | (_, Err(_)) => self.end(Ok(())),
            (Reason::Failed(Error::Reset { .. }), _) => self.end(Err(Error::Reset { peer: self.name.to_string() })),
            (Reason::Failed(error), _) => self.end(Err(error)),
            _ => match self.up_ended.take() {
                Some(result) => self.end(result),
                None => {
                    self.down_ended.set(true);
                    self.moved.set(true);
                    self.await_pause();
                }
            },
        });
    }

    fn await_pause(self: Rc<Self>) {
        if self.moved.replace(false) || self.unsent.get() {
            glib::timeout_add_local_once(PAUSE, move || self.await_pause());
        } else {
            self.end(Ok(()));
        }
    }

    fn end(&self, result: network::Result) {
        let done = self.done.take();
        for socket in [&self.up, &self.down] {
            socket.unset_disconnect_cb();
            socket.abort();
        }
        if let Some(done) = done {
            done(result);
        }
    }
}

/// Sends on what a socket reads, no faster than it goes out. `moved` is told of each piece.
fn pump(socket: &Socket, moved: Rc<dyn Fn(&Socket)>) {
    socket.read(move |socket, data| {
        socket.send(data)?;
        moved(socket);
        if socket.queued() > MARK {
            socket.send(socket.unread())?;
            let (paused, moved) = (socket.clone(), moved.clone());
            socket.flush_async(move |sent| {
                if sent.is_ok() {
                    pump(&paused, moved);
                }
            });
        }
        Ok(())
    });
}

/// Calls when all is sent, or is lost.
fn after_flush(socket: &Socket, then: impl FnOnce(network::Result) + 'static) {
    let waits = socket.queued() > 0;
    // With nothing left to send, a connection that is closed already is no failure.
    socket.flush_async(move |sent| then(if waits { sent } else { Ok(()) }));
}
