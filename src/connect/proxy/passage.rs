//! The way through a proxy: connects to it, has the conversation, and hands over the connection with the target behind it.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use gio::prelude::*;

use super::line::{Line, Tunnel, no_tls};
use super::negotiation::{Negotiation, Problem, Step};
use super::{Destination, Hop, Hops, Targets, Way, is_own_address, read_resolved};
use crate::address::{Address, Endpoint};
use crate::conn::Options;
use crate::connect::connecting::load_roots;
use crate::connect::leads_to_this_thread;
use crate::connect::race::{Racing, Winner};
use crate::engine::{Engine, within};
use crate::error::{Error, Operation, Result, os_text};
use crate::log;
use crate::resolve::{look_up, plan};
use crate::sys::Tuning;
use crate::tls::{ClientTls, Session};

const OPERATION: Operation = Operation::Proxy;

/// The proxies and the target of one connection.
pub(in crate::connect) struct Passage {
    pub(super) address: Address,
    pub(super) hops: Hops,
    pub(super) targets: Targets,
    /// TLS follows.
    pub(super) is_tls: bool,
    pub(super) settings: Settings,
}

/// The settings that hold for every proxy of a connection.
pub(super) struct Settings {
    pub(super) timeout: Duration,
    pub(super) reply_limit: usize,
    /// Of the TLS to the proxy itself.
    pub(super) tls: ClientTls,
}

/// The options of a connection that matter on the way.
pub(in crate::connect) struct Means<'a> {
    tuning: &'a Tuning,
    limit: Duration,
    /// No callback of this thread runs meanwhile.
    blocks: bool,
}

impl<'a> Means<'a> {
    pub(in crate::connect) fn new(options: &'a Options, blocks: bool) -> Self {
        Means { tuning: &options.tuning, limit: options.connect_timeout, blocks }
    }
}

/// The reason why one proxy did not help.
enum Failure {
    Problem(Problem),
    Late,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::Problem(problem)
    }
}

impl Passage {
    /// Fails if the proxy is known, and cannot be asked for any of the targets.
    pub(super) fn check(&self) -> Result {
        let Hops::Known(ways) = &self.hops else { return Ok(()) };
        for way in ways {
            let Way::Through(hop) = way else { continue };
            self.check_tls(hop)?;
            self.possible(hop, self.targets.destinations()).map_err(|problem| self.error(hop, problem))?;
        }
        Ok(())
    }

    /// Fails if the connection to the proxy uses TLS and cannot.
    fn check_tls(&self, hop: &Hop) -> Result {
        match hop.is_tls() {
            false => Ok(()),
            true if self.is_tls => Err(Error::Unsupported(format!(
                "cannot connect to {} through the proxy {hop}: TLS within the TLS of the proxy is not supported; use an \
                 http:// or socks5h:// proxy, or a target in plaintext",
                self.address
            ))),
            true => self.settings.tls.check(),
        }
    }

    /// Returns the destinations that the proxy can be asked for, or why it can be asked for none of them.
    fn possible(&self, hop: &Hop, all: Vec<Destination>) -> Result<Vec<Destination>, Failure> {
        let problem = all.iter().find_map(|destination| hop.cannot(destination));
        let possible: Vec<_> = all.into_iter().filter(|destination| hop.cannot(destination).is_none()).collect();
        match problem {
            Some(problem) if possible.is_empty() => Err(Problem::Target(problem).into()),
            _ => Ok(possible),
        }
    }

    /// Connects to the target. Dropping the future leaves nothing behind.
    pub(in crate::connect) async fn connect(&self, engine: &Rc<Engine>, means: Means<'_>) -> Result<Winner> {
        let limit = means.limit;
        let late = || Error::TimedOut { operation: Operation::Connect, address: self.address.to_string(), limit };
        within(engine, limit, self.try_all(engine, &means)).await.unwrap_or_else(|| Err(late()))
    }

    /// Tries one proxy after the other. The error is that of the first, which is the preferred one.
    async fn try_all(&self, engine: &Rc<Engine>, means: &Means<'_>) -> Result<Winner> {
        let asked;
        let ways = match &self.hops {
            Hops::Known(ways) => ways,
            Hops::Ask(uri) => {
                asked = self.ask_system(uri).await?;
                &asked
            }
        };
        let mut failed = None;
        for way in ways {
            let won = match way {
                Way::Direct => self.directly(engine, means).await,
                Way::Through(hop) => self.try_one(engine, means, hop).await,
            };
            match won {
                Ok(won) => return Ok(won),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        Err(failed.unwrap_or_else(|| self.unknown("the system names none")))
    }

    /// Asks gio's resolver. Entries that are no proxies for this library are passed over, unless there are no others.
    async fn ask_system(&self, uri: &str) -> Result<Vec<Way>> {
        let answer = gio::ProxyResolver::default().lookup_future(uri).await;
        let found = answer.map_err(|error| self.unknown(error.message()))?;
        let (ways, problems): (Vec<_>, Vec<_>) =
            found.iter().map(|uri| read_resolved(uri)).partition(std::result::Result::is_ok);
        let ways: Vec<Way> = ways.into_iter().flatten().collect();
        match problems.into_iter().find_map(std::result::Result::err) {
            Some(problem) if ways.is_empty() => Err(self.unknown(&problem)),
            _ => Ok(ways),
        }
    }

    fn unknown(&self, problem: &str) -> Error {
        let problem = log::Printable(problem).to_string();
        Error::Proxy { proxy: "of the system's settings".into(), address: self.address.to_string(), problem }
    }

    async fn directly(&self, engine: &Rc<Engine>, means: &Means<'_>) -> Result<Winner> {
        let plan = plan(&self.address)?;
        Racing::start(engine, &self.address, means.tuning, plan, means.limit).await
    }

    async fn try_one(&self, engine: &Rc<Engine>, means: &Means<'_>, hop: &Hop) -> Result<Winner> {
        self.check_tls(hop)?;
        let destinations = match &self.targets {
            Targets::Name(..) if hop.resolves_here() => {
                let found = look_up(&self.address, means.limit).await.map_err(|error| ask_there(error, hop))?;
                if found.iter().all(|address| is_own_address(address.ip())) {
                    return self.directly(engine, means).await;
                }
                // To the proxy, this machine's own addresses are the proxy's.
                let found = found.into_iter().filter(|address| !is_own_address(address.ip()));
                found.map(Destination::Address).collect()
            }
            as_they_are => as_they_are.destinations(),
        };
        let mut failed = None;
        for destination in self.possible(hop, destinations).map_err(|failure| self.error(hop, failure))? {
            match self.ask(engine, means, hop, &destination).await {
                Ok(Tunnel { fd, tls }) => {
                    let event = log::debug("connect").peer(&self.address);
                    event.say(format_args!("connected to {} through {hop}", self.address));
                    return Ok(Winner { fd, service: None, asked: Some(endpoint(&destination)), tls });
                }
                Err(failure) => {
                    // No answer: perhaps the proxy waits for this address. The limit for all of it holds in any case.
                    let is_last = !matches!(failure, Failure::Problem(Problem::Target(_)) | Failure::Late);
                    failed = Some(failure);
                    if is_last {
                        break;
                    }
                }
            }
        }
        let failure = failed.unwrap_or_else(|| Problem::Target("the host has no addresses".into()).into());
        Err(self.error(hop, failure))
    }

    /// Asks a proxy for one destination, on a second connection if it demands a password.
    async fn ask(
        &self,
        engine: &Rc<Engine>,
        means: &Means<'_>,
        hop: &Hop,
        destination: &Destination,
    ) -> Result<Tunnel, Failure> {
        let mut negotiation = Negotiation::new(hop, destination, self.settings.reply_limit);
        loop {
            let reached = self.reach(engine, means, hop).await?;
            let talk = async {
                let session = self.session(engine, hop).await?;
                talk(Line::new(engine, reached, session)?, &mut negotiation).await
            };
            match within(engine, self.settings.timeout, talk).await {
                None => return Err(Failure::Late),
                Some(Err(problem)) => return Err(problem.into()),
                Some(Ok(Some(tunnel))) => return Ok(tunnel),
                Some(Ok(None)) => {}
            }
        }
    }

    /// Returns the session of TLS with a proxy that uses it. The system's roots are loaded before it has to judge.
    async fn session(&self, engine: &Rc<Engine>, hop: &Hop) -> Result<Option<Session>, Problem> {
        if !hop.is_tls() {
            return Ok(None);
        }
        let (tls, peer) = (&self.settings.tls, hop.peer());
        if tls.may_load_roots(&peer) {
            let (loaded, is_loaded) = oneshot::channel();
            let started = load_roots(engine, move || {
                // The receiver may have been dropped.
                let _ = loaded.send(());
            });
            started.map_err(|error| Problem::Proxy(format!("cannot load certificates: {}", os_text(&error))))?;
            // Without them, the handshake fails, and says why.
            let _ = is_loaded.await;
        }
        let session = Session::client(tls, &peer).map_err(no_tls)?;
        Ok(Some(session.of_proxy(&hop.to_string())))
    }

    /// Connects to the proxy itself.
    async fn reach(&self, engine: &Rc<Engine>, means: &Means<'_>, hop: &Hop) -> Result<OwnedFd, Problem> {
        let race = async {
            let plan = plan(&hop.address)?;
            Racing::start(engine, &hop.address, means.tuning, plan, means.limit).await
        };
        let won = race.await.map_err(|error| Problem::Proxy(reason(error)))?;
        if means.blocks && leads_to_this_thread(&won.fd) {
            let problem = "it runs on this thread, which the call blocks; use connect_async or connect_future";
            return Err(Problem::Proxy(problem.into()));
        }
        Ok(won.fd)
    }

    fn error(&self, hop: &Hop, failure: Failure) -> Error {
        let (proxy, address) = (hop.to_string(), self.address.to_string());
        match failure {
            Failure::Problem(problem) => Error::Proxy { proxy, address, problem: problem.text() },
            Failure::Late => {
                let address = format!("{address} (proxy: {proxy})");
                Error::TimedOut { operation: OPERATION, address, limit: self.settings.timeout }
            }
        }
    }
}

/// Returns why the proxy itself cannot be reached, without its address, which stands before it.
fn reason(error: Error) -> String {
    match error {
        Error::Refused { source, .. } | Error::Unreachable { source, .. } | Error::Io { source, .. } => {
            format!("cannot reach the proxy: {}", os_text(&source))
        }
        Error::Lookup { cause, .. } => format!("cannot resolve the host of the proxy: {cause}"),
        other => other.to_string(),
    }
}

/// The host of the target is unknown here. The proxy may know it.
fn ask_there(error: Error, hop: &Hop) -> Error {
    match error {
        Error::Lookup { address, cause } => {
            let there = hop.to_string().replacen("socks5://", "socks5h://", 1);
            Error::Lookup { address, cause: format!("{cause}; with {there}, the proxy resolves host names") }
        }
        other => other,
    }
}

/// The peer of a connection through a proxy, as it was asked for.
fn endpoint(destination: &Destination) -> Endpoint {
    let (host, port) = match destination {
        Destination::Name(name, port) => (name.clone(), *port),
        Destination::Address(address) => (address.ip().to_canonical().to_string(), address.port()),
    };
    Endpoint::Proxied { host, port }
}

/// Talks to the proxy. `None` if it is to be continued on another connection.
async fn talk(mut line: Line, negotiation: &mut Negotiation) -> Result<Option<Tunnel>, Problem> {
    loop {
        let is_sent = line.send(negotiation.output())?;
        let step = line.receive(negotiation)?;
        match step {
            // What is still to be sent would go to the target.
            Some(Step::Done) if !is_sent || !negotiation.output().is_empty() => {
                return Err(Problem::Proxy("it replied before it was asked".into()));
            }
            Some(Step::Done) => return Ok(line.into_tunnel()),
            Some(Step::Anew) => return Ok(None),
            Some(Step::More) => {}
            None => line.news().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::engine::block_on;

    fn through(port: u16) -> Way {
        Way::Through(Hop::parse(&format!("http://127.0.0.1:{port}"), None).unwrap())
    }

    fn connect(ways: Vec<Way>) -> Result<Winner> {
        let address = Address::parse("target.test:25").unwrap();
        let limit = Duration::from_secs(20);
        let targets = Targets::Name("target.test".into(), 25);
        let settings = Settings { timeout: limit, reply_limit: 1000, tls: ClientTls::system() };
        let passage = Passage { address, hops: Hops::Known(ways), targets, is_tls: false, settings };
        let tuning = Tuning::default();
        block_on(OPERATION, "a test", |engine| async move {
            passage.connect(&engine, Means { tuning: &tuning, limit, blocks: true }).await
        })
    }

    #[test]
    fn several_are_tried_in_their_order() {
        let dead = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 200];
            assert_ne!(stream.read(&mut request).unwrap(), 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        });
        let won = connect(vec![through(dead()), through(port), through(dead())]).unwrap();
        assert_eq!(won.asked.unwrap().to_string(), "target.test:25");
        proxy.join().unwrap();
        let (first, second) = (dead(), dead());
        let error = connect(vec![through(first), through(second)]).err().unwrap().to_string();
        assert!(error.contains(&format!("http://127.0.0.1:{first}: cannot reach the proxy")), "{error}");
    }
}
