//! Joins standard input and output to a peer: `netcat localhost:1234`, `netcat --listen /tmp/socket`.
//!
//! At the end of its input it half-closes and waits for the end of the peer's data. If the peer ends first, it keeps sending
//! until its input ends or pauses for half a second. Exit status: 0 after a clean end, 2 for invalid options, 1 otherwise,
//! with one line that says why.
//! `--udp` exchanges datagrams instead, see `netcat/udp.rs`; `--reconnect` survives the peer, see `netcat/reconnect.rs`.
//! SIGINT and SIGTERM kill a client, as other tools; a listener ends cleanly.

#[path = "netcat/reconnect.rs"]
mod reconnect;
#[path = "netcat/starttls.rs"]
mod starttls;
#[path = "netcat/udp.rs"]
mod udp;
#[path = "netcat/words.rs"]
mod words;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use network::{
    Address, ClientTls, Disconnect, Endpoint, Error, Reason, Server, ServerTls, Socket,
    socket::Proxy,
    tls::{Fingerprint, Identity, Tls},
};

/// With a longer send queue than this, reading stops.
const MARK: usize = 1 << 20;

/// After the end of the peer's data, input that pauses for this long has ended as well.
const PAUSE: Duration = Duration::from_millis(500);

/// The first bytes of TLS records: alerts and handshakes.
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;

/// A slow reader gets all the time it needs.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Joins standard input and output to a peer.
#[derive(Parser)]
struct Args {
    /// host:port, [IPv6]:port, port, a path with a slash, @name (a unix socket without a path), service|name, or
    /// srv:service.domain (SRV records)
    address: String,
    /// Listen, serve the first connection and end with it
    #[arg(short, long)]
    listen: bool,
    /// Keep listening: joined clients are served one after the other, echoed ones concurrently
    #[arg(short, long, requires = "listen")]
    keep: bool,
    /// Echo received data, instead of joining it to standard input and output
    #[arg(short, long, requires = "listen")]
    echo: bool,
    /// Use datagrams (UDP): with the one peer, or with --listen the first one; --echo replies to all
    #[arg(short, long, conflicts_with_all = ["keep", "browse", "tls", "cert", "require_client"])]
    udp: bool,
    /// List Avahi services of the type ADDRESS, such as chat, as they appear and disappear
    #[arg(short, long, conflicts_with_all = ["listen", "tls", "cert"])]
    browse: bool,
    /// TLS, and which servers to trust; default: on for TCP, off for unix sockets
    #[arg(long, value_name = "on|off|first-use|any|pin:HEX|ca:FILE")]
    tls: Option<Mode>,
    /// Begin in plaintext and ask for TLS as clients of this protocol do; also by the schemes smtp+starttls://,
    /// imap+starttls://, xmpp+starttls:// and ftpes://
    #[arg(long, value_name = "PROTOCOL", conflicts_with_all = ["listen", "udp", "browse"])]
    starttls: Option<starttls::Protocol>,
    /// Certificate to present, a PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Accept only clients with a certificate of this fingerprint; may be repeated
    #[arg(long, value_name = "FINGERPRINT", requires = "listen")]
    require_client: Vec<Fingerprint>,
    /// Connect through a proxy: socks5://, socks5h://, socks4a://, http:// or https://host:port with user:password@ before the
    /// host if needed, or the one of the environment variables, or else of the desktop's settings
    #[arg(long, value_name = "URL|environment|system", conflicts_with_all = ["listen", "udp", "browse"])]
    proxy: Option<String>,
    /// Time for connecting, and for each reply before TLS
    #[arg(short = 'w', long, value_name = "SECONDS", default_value = "30", conflicts_with_all = ["listen", "udp", "browse"])]
    timeout: u32,
    /// Connect again, as often as needed, until the input ends
    #[arg(short, long, conflicts_with_all = ["listen", "udp", "browse", "starttls"])]
    reconnect: bool,
    /// Print addresses, whether a proxy is used, fingerprints of both sides and rejected clients to standard error
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Clone)]
enum Mode {
    On,
    Off,
    FirstUse,
    Any,
    Pin(Fingerprint),
    Ca(PathBuf),
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        Ok(match text.split_once(':').unwrap_or((text, "")) {
            ("on", "") => Mode::On,
            ("off", "") => Mode::Off,
            ("first-use", "") => Mode::FirstUse,
            ("any", "") => Mode::Any,
            ("pin", hex) => Mode::Pin(hex.parse().map_err(|error| format!("{error}"))?),
            ("ca", file) if !file.is_empty() => Mode::Ca(file.into()),
            _ => return Err("expected on, off, first-use, any, pin:HEX or ca:FILE".into()),
        })
    }
}

impl Args {
    /// Returns why the options conflict, if they do.
    fn conflict(&self) -> Option<&'static str> {
        match &self.tls {
            Some(Mode::Off) if self.cert.is_some() || !self.require_client.is_empty() => {
                Some("--cert and --require-client need TLS, and --tls is off")
            }
            Some(Mode::Off) if self.starttls.is_some() => Some("--starttls is for TLS, and --tls is off"),
            Some(Mode::Off) if self.starttls().is_some() => {
                Some("the scheme of the address is for TLS, and --tls is off")
            }
            _ if self.starttls.is_some() && self.starttls() != self.starttls => {
                Some("--starttls and the scheme of the address name different protocols")
            }
            _ if self.reconnect && self.starttls().is_some() => Some("--reconnect and STARTTLS do not go together"),
            None | Some(Mode::On | Mode::Off) => None,
            Some(_) if self.listen => Some("with --listen, --tls is on or off: the other choices are a client's"),
            Some(_) => None,
        }
    }

    fn identity(&self) -> network::Result<Option<Identity>> {
        self.cert.as_ref().zip(self.key.as_ref()).map(|(cert, key)| Identity::pem(cert, key)).transpose()
    }

    /// Returns the client's TLS configuration, if one was chosen.
    fn client_tls(&self) -> network::Result<Option<Tls<ClientTls>>> {
        let identity = self.identity()?;
        let settings = match &self.tls {
            None if identity.is_none() => return Ok(None),
            Some(Mode::Off) => return Ok(Some(Tls::Off)),
            None | Some(Mode::On) => ClientTls::default(),
            Some(Mode::FirstUse) => ClientTls::on_first_use(),
            Some(Mode::Any) => ClientTls::danger_accept_any(),
            Some(Mode::Pin(fingerprint)) => ClientTls::pinned(fingerprint),
            Some(Mode::Ca(file)) => {
                let failed = |error| Error::other(format!("{}: {}", file.display(), Error::from(error)));
                let pem = std::fs::read(file).map_err(failed)?;
                ClientTls::roots(pem)
            }
        };
        Ok(Some(Tls::On(match identity {
            Some(identity) => settings.identity(identity),
            None => settings,
        })))
    }

    fn server_tls(&self) -> network::Result<Option<Tls<ServerTls>>> {
        let identity = self.identity()?;
        let asked = identity.is_some() || !self.require_client.is_empty();
        match &self.tls {
            Some(Mode::Off) => return Ok(Some(Tls::Off)),
            None if !asked => return Ok(None),
            _ => {}
        }
        let settings = identity.map_or_else(ServerTls::default, ServerTls::from);
        Ok(Some(Tls::On(match self.require_client.as_slice() {
            [] => settings,
            list => settings.allow(list),
        })))
    }

    /// Rewords an error in terms of this program's options.
    fn advise(&self, error: Error) -> Error {
        match (&error, &self.tls) {
            (Error::UnknownCertificate { peer, fingerprint, .. }, None | Some(Mode::On)) => Error::other(format!(
                "the certificate of {} is not trusted. If the owner of the server confirms the fingerprint, \
                 use --tls pin:{fingerprint}, or --tls first-use to pin it from now on",
                peer.escape_debug() // the name of a service may contain anything
            )),
            (Error::CertificateChanged { peer, pinned, fingerprint, .. }, Some(Mode::Pin(_))) => Error::other(format!(
                "{} does not have the key of --tls pin:{pinned}. Either the pin is wrong or outdated, or the \
                 connection is being intercepted. If the owner of the server confirms the fingerprint, use \
                 --tls pin:{fingerprint}",
                peer.escape_debug()
            )),
            // Whoever asks for STARTTLS does not want the advice to go without: it may be an attack.
            (Error::Plaintext { peer, .. }, _) if self.starttls().is_none() => {
                Error::other(format!("{peer} sent plaintext instead of TLS; use --tls off for no encryption"))
            }
            (Error::TlsSettings(_), Some(Mode::Ca(file))) => Error::other(format!("{}: {error}", file.display())),
            _ => error,
        }
    }

    /// Returns the protocol to ask for TLS in.
    fn starttls(&self) -> Option<starttls::Protocol> {
        starttls::of_url(&self.address).map(|(protocol, ..)| protocol).or(self.starttls)
    }

    /// Returns the address of the server.
    fn server(&self) -> network::Result<Address> {
        match starttls::of_url(&self.address) {
            Some((_, host, port)) => Address::host(host, port),
            None => Address::parse(&self.address),
        }
    }

    /// Returns the domain that the address names, as the server knows it.
    fn domain(&self) -> &str {
        let address = self.address.as_str();
        if let Some((_, domain)) = address.strip_prefix("srv:").and_then(|name| name.split_once('.')) {
            return domain;
        }
        let authority = address.split_once("://").map_or(address, |(_, rest)| rest.split('/').next().unwrap_or(rest));
        authority.rsplit_once(':').map_or(authority, |(host, _)| host)
    }

    fn greet(&self, peer: &Socket) {
        if self.verbose && !self.listen {
            let how = if matches!(peer.remote(), Endpoint::Proxied { .. }) { "through a proxy" } else { "directly" };
            eprintln!("connected to {} {how}", peer.remote());
        }
        if let (true, Some(fingerprint)) = (self.verbose, peer.peer_fingerprint()) {
            eprintln!("peer {fingerprint}");
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            // The first paragraph; the rest is advice.
            let text = error.to_string();
            let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            return misused(lines.join(" ").trim_start_matches("error: "));
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    if let Some(conflict) = args.conflict() {
        return misused(conflict);
    }
    let verbose = args.verbose;
    glib::log_set_writer_func(move |level, fields| {
        // An error that ends the program is printed at its end. Rejected clients do not end it.
        let text = fields.iter().find(|field| field.key() == "MESSAGE").and_then(|field| field.value_str());
        if let (true, glib::LogLevel::Message | glib::LogLevel::Warning, Some(text)) = (verbose, level, text) {
            eprintln!("{}", words::in_options(text));
        }
        glib::LogWriterOutput::Handled
    });
    let result = match (args.browse, args.listen) {
        (true, _) => browse(&args.address),
        (_, true) if args.udp => udp::listen(&args.address, args.echo, args.verbose),
        (_, true) => listen(args),
        _ if args.udp => udp::connect(&args.address),
        _ => connect(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("netcat: {}", words::in_options(&why.to_string()));
    ExitCode::FAILURE
}

fn misused(why: &str) -> ExitCode {
    fail(&why);
    ExitCode::from(2)
}

/// Prints the addresses in use, which port 0 and names leave open.
fn tell_places<T: std::fmt::Display>(places: impl IntoIterator<Item = T>) {
    for place in places {
        eprintln!("listening on {place}");
    }
}

fn connect(args: Args) -> network::Result {
    network::mainloop::set_signal_handling(false);
    let limit = Duration::from_secs(args.timeout.into());
    let mut builder = Socket::builder().connect_timeout(limit);
    let tls = args.client_tls()?;
    if args.starttls().is_some() {
        builder = builder.tls(false);
    } else if let Some(tls) = &tls {
        builder = builder.tls(tls.clone());
    }
    builder = match args.proxy.as_deref() {
        None => builder,
        Some("environment") => builder.proxy(Proxy::environment()),
        Some("system") => builder.proxy(Proxy::system()),
        Some(url) => builder.proxy(url),
    };
    if args.reconnect {
        let address = args.server()?;
        let args = Rc::new(args);
        let greeting = args.clone();
        return reconnect::connect(builder, address, move |peer| greeting.greet(peer))
            .map_err(|error| args.advise(error));
    }
    let peer = builder.connect(args.server()?).map_err(|error| args.advise(error))?;
    if let Some(protocol) = args.starttls() {
        peer.set_timeout(limit);
        protocol.ask(&peer, args.domain())?;
        let settings = match tls {
            Some(Tls::On(settings)) => settings,
            _ => ClientTls::default(),
        };
        peer.start_tls(settings).map_err(|error| args.advise(error))?;
    }
    args.greet(&peer);
    let outcome = Rc::new(OnceCell::new());
    let done = outcome.clone();
    Join::start(peer, move |result| {
        let _ = done.set(result);
        network::endloop();
    })?;
    while outcome.get().is_none() {
        network::fgloop();
    }
    Rc::into_inner(outcome).and_then(OnceCell::into_inner).unwrap_or(Ok(()))
}

/// Prints services, one per line, until interrupted. Their names are quoted, since anybody can choose them.
#[cfg(feature = "_services")]
fn browse(kind: &str) -> network::Result {
    use network::services::Event;

    let _browse = network::services::browse(kind, |event| match event {
        Event::Added(service) | Event::Changed(service) => {
            let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
            say(format_args!("+ {:?} {:?} {}", service.name, service.host, addresses.join(" ")));
        }
        Event::Removed(service) => say(format_args!("- {:?}", service.name)),
        Event::AllForNow => say("all for now"),
        Event::Unavailable(error) => {
            say("down");
            eprintln!("netcat: {error}; still trying");
        }
        Event::Available => say("up"),
        _ => {}
    })?;
    network::fgloop();
    Ok(())
}

#[cfg(not(feature = "_services"))]
fn browse(_: &str) -> network::Result {
    Err(Error::other("built without Avahi"))
}

/// Serves clients as they come.
struct Listening {
    args: Args,
    server: OnceCell<Server>,
    /// Clients waiting for standard input and output.
    waiting: RefCell<VecDeque<Socket>>,
    busy: Cell<bool>,
    outcome: RefCell<network::Result>,
}

fn listen(args: Args) -> network::Result {
    let mut builder = Server::builder().linger(PATIENCE);
    if let Some(tls) = args.server_tls()? {
        builder = builder.tls(tls);
    }
    let (waiting, busy, outcome) = (RefCell::default(), Cell::new(false), RefCell::new(Ok(())));
    let listening = Rc::new(Listening { args, server: OnceCell::new(), waiting, busy, outcome });
    let args = &listening.args;
    let accept = listening.clone();
    let server = builder.listen(args.address.as_str(), move |peer| {
        accept.args.greet(&peer);
        if !accept.args.keep
            && let Some(server) = accept.server.get()
        {
            server.close();
        }
        if accept.args.echo {
            accept.echo(&peer)
        } else {
            accept.enqueue(peer)
        }
        Ok(())
    })?;
    if args.verbose {
        if let Some(fingerprint) = server.fingerprint() {
            eprintln!("fingerprint {fingerprint}");
        }
        tell_places(server.local());
    }
    let _ = listening.server.set(server);
    network::fgloop();
    listening.outcome.replace(Ok(()))
}

impl Listening {
    fn echo(self: &Rc<Self>, peer: &Socket) {
        let me = self.clone();
        peer.disconnect_cb(move |peer, end| {
            let waits = peer.queued() > 0;
            peer.flush_async(move |sent| {
                me.served(match end.reason {
                    Reason::Failed(error) => Err(error),
                    // With an empty send queue, a closed connection is not a failure.
                    _ if waits => sent,
                    _ => Ok(()),
                });
            });
        });
        pump(peer, peer, Rc::new(|_| Ok(())));
    }

    fn enqueue(self: &Rc<Self>, peer: Socket) {
        self.waiting.borrow_mut().push_back(peer);
        self.join_next();
    }

    fn join_next(self: &Rc<Self>) {
        while !self.busy.get() {
            let Some(peer) = self.waiting.borrow_mut().pop_front() else { return };
            self.busy.set(true);
            let me = self.clone();
            if let Err(error) = Join::start(peer, move |result| me.served(result)) {
                self.served(Err(error));
            }
        }
    }

    fn served(self: &Rc<Self>, result: network::Result) {
        self.busy.set(false);
        if !self.args.keep {
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

/// A peer, and standard input and output as another socket. Data from each goes to the other, and the directions end
/// independently.
struct Join {
    peer: Socket,
    terminal: Socket,
    /// Input has arrived since this was last checked.
    moved: Cell<bool>,
    /// The input is TLS made by another program.
    made_elsewhere: OnceCell<bool>,
    done: RefCell<Option<Done>>,
}

type Done = Box<dyn FnOnce(network::Result)>;

impl Join {
    fn start(peer: Socket, done: impl FnOnce(network::Result) + 'static) -> network::Result {
        let (input, output) = (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
        let terminal = Socket::wrap(input, output)?;
        let (moved, made_elsewhere, done) =
            (Cell::new(false), OnceCell::new(), RefCell::new(Some(Box::new(done) as Done)));
        let me = Rc::new(Join { peer, terminal, moved, made_elsewhere, done });

        let it = me.clone();
        me.terminal.half_close_cb(move |_| {
            // If the peer has gone meanwhile, its disconnect callback reports it.
            let _ = it.peer.shutdown_write();
            Ok(())
        });
        let it = me.clone();
        me.peer.half_close_cb(move |_| {
            it.await_pause();
            Ok(())
        });
        let it = me.clone();
        me.peer.disconnect_cb(move |_, end| it.peer_ends(end));
        let it = me.clone();
        me.terminal.disconnect_cb(move |_, end| match end.reason {
            // The reader of our output has gone.
            Reason::Failed(Error::Closed { .. }) => it.end(Ok(())),
            Reason::Failed(error) => it.end(Err(error)),
            _ => it.end(Ok(())),
        });

        let it = me.clone();
        let input = move |data: &[u8]| {
            it.moved.set(true);
            if let Some(first) = data.first() {
                let _ = it.made_elsewhere.set(*first == HANDSHAKE);
            }
            Ok(())
        };
        pump(&me.terminal, &me.peer, Rc::new(input));
        let (it, known) = (me.clone(), Cell::new(false));
        let answer = move |data: &[u8]| if known.replace(true) { Ok(()) } else { it.first_answer(data) };
        pump(&me.peer, &me.terminal, Rc::new(answer));
        Ok(())
    }

    /// Recognizes a server that expects TLS: it replies to plaintext with an alert.
    fn first_answer(&self, data: &[u8]) -> network::Result {
        let is_alert = matches!(data, [ALERT, 3, 0..=4, 0, 2, 1 | 2, _, ..]);
        if self.peer.is_tls() || !is_alert || self.made_elsewhere.get() == Some(&true) {
            return Ok(());
        }
        Err(Error::other(format!(
            "{} replied with a TLS alert: the server uses TLS, which is off here",
            self.peer.remote()
        )))
    }

    /// Both directions have ended, or the connection has failed. Received data is written first.
    fn peer_ends(self: Rc<Self>, end: Disconnect) {
        let terminal = self.terminal.clone();
        terminal.flush_async(move |_| {
            self.end(match end.reason {
                Reason::Failed(error) => Err(error),
                _ => Ok(()),
            });
        });
    }

    /// The peer has half-closed. Sending continues as long as input arrives.
    fn await_pause(self: Rc<Self>) {
        self.moved.set(false);
        glib::timeout_add_local_once(PAUSE, move || {
            let (peer, terminal) = (self.peer.clone(), self.terminal.clone());
            peer.flush_async(move |sent| match sent {
                _ if self.moved.get() => self.await_pause(),
                Ok(()) => terminal.flush_async(move |_| self.end(Ok(()))),
                // The disconnect callback reports why.
                Err(_) => {}
            });
        });
    }

    fn end(&self, result: network::Result) {
        let Some(done) = self.done.take() else { return };
        for socket in [&self.peer, &self.terminal] {
            socket.unset_disconnect_cb();
            // Sends a close_notify if there is room, without waiting.
            socket.close();
            socket.abort();
        }
        done(result);
    }
}

type Moved = Rc<dyn Fn(&[u8]) -> network::Result>;

/// Sends data from one socket to the other, with back-pressure. `moved` is called with each piece, and with nothing after a
/// wait.
fn pump(from: &Socket, to: &Socket, moved: Moved) {
    let to = to.clone();
    from.read(move |from, data| {
        moved(data)?;
        if to.send(data).is_err() {
            // The disconnect callback of the other socket reports why.
            from.unread();
        } else if to.queued() > MARK {
            // Undelivered data goes as well: the end of the stream may have come.
            let sent = to.send(from.unread());
            let (from, into, moved) = (from.clone(), to.clone(), moved.clone());
            to.flush_async(move |flushed| {
                if sent.and(flushed).is_ok() && moved(&[]).is_ok() {
                    pump(&from, &into, moved);
                }
            });
        }
        Ok(())
    });
}

/// Prints a line. Once nobody reads any more, this program ends.
#[cfg(feature = "_services")]
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
