//! The way through a proxy: connects to it, has the conversation, and hands over the connection with the target behind it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gio::prelude::*;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::negotiation::{Negotiation, Problem, Step};
use super::{Destination, Hop, Hops, Targets, Way, is_own_address, read_resolved};
use crate::address::{Address, Endpoint};
use crate::conn::Options;
use crate::connect::leads_to_this_thread;
use crate::connect::race::{Racing, Winner};
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, within};
use crate::error::{Error, Operation, Result, os_text};
use crate::log;
use crate::resolve::{look_up, plan};
use crate::sys::Tuning;

const OPERATION: Operation = Operation::Proxy;

/// Input is looked at in pieces of this size.
const PIECE: usize = 1 << 10;

/// The proxies and the target of one connection.
pub(in crate::connect) struct Passage {
    address: Address,
    hops: Hops,
    targets: Targets,
    timeout: Duration,
    reply_limit: usize,
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
    pub(super) fn new(address: &Address, hops: Hops, targets: Targets, timeout: Duration, reply_limit: usize) -> Self {
        Passage { address: address.clone(), hops, targets, timeout, reply_limit }
    }

    /// Fails if the proxy is known, and cannot be asked for any of the targets.
    pub(super) fn check(&self) -> Result {
        let Hops::Known(ways) = &self.hops else { return Ok(()) };
        for way in ways {
            let Way::Through(hop) = way else { continue };
            self.possible(hop, self.targets.destinations()).map_err(|problem| self.error(hop, problem))?;
        }
        Ok(())
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
        let destinations = match &self.targets {
            Targets::Name(..) if hop.resolves_here() => {
                let found = look_up(&self.address, means.limit).await?;
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
                Ok(fd) => {
                    let event = log::debug("connect").peer(&self.address);
                    event.say(format_args!("connected to {} through {hop}", self.address));
                    return Ok(Winner { fd, service: None, asked: Some(endpoint(&destination)) });
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
    ) -> Result<OwnedFd, Failure> {
        let mut negotiation = Negotiation::new(hop, destination, self.reply_limit);
        loop {
            let reached = self.reach(engine, means, hop).await?;
            let talk = talk(engine, reached, &mut negotiation);
            match within(engine, self.timeout, talk).await {
                None => return Err(Failure::Late),
                Some(Err(problem)) => return Err(problem.into()),
                Some(Ok(Some(fd))) => return Ok(fd),
                Some(Ok(None)) => {}
            }
        }
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
                Error::TimedOut { operation: OPERATION, address, limit: self.timeout }
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

/// The peer of a connection through a proxy, as it was asked for.
fn endpoint(destination: &Destination) -> Endpoint {
    let (host, port) = match destination {
        Destination::Name(name, port) => (name.clone(), *port),
        Destination::Address(address) => (address.ip().to_canonical().to_string(), address.port()),
    };
    Endpoint::Proxied { host, port }
}

/// Talks to the proxy. `None` if it is to be continued on another connection.
async fn talk(engine: &Rc<Engine>, fd: OwnedFd, negotiation: &mut Negotiation) -> Result<Option<OwnedFd>, Problem> {
    let line = Line::new(engine, fd).map_err(|error| broken(&error))?;
    loop {
        line.send(negotiation.output()).map_err(|error| broken(&error))?;
        let step = line.receive(negotiation)?;
        match step {
            // What is still to be sent would go to the target.
            Some(Step::Done) if !negotiation.output().is_empty() => {
                return Err(Problem::Proxy("it replied before it was asked".into()));
            }
            Some(Step::Done) => return Ok(line.into_fd()),
            Some(Step::Anew) => return Ok(None),
            Some(Step::More) => {}
            None => line.news().await,
        }
    }
}

fn broken(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Problem::Proxy("it reset the connection before its reply was complete".into())
        }
        _ => Problem::Proxy(os_text(error)),
    }
}

/// A connection to a proxy, on the loop. Dropping it closes it.
struct Line {
    engine: Rc<Engine>,
    fd: Option<OwnedFd>,
    watch: Rc<Watch>,
}

/// Passes the readiness of a line on.
#[derive(Default)]
struct Watch {
    key: Cell<Option<Key>>,
    /// Something has happened that was not looked at.
    news: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Line {
    fn new(engine: &Rc<Engine>, fd: OwnedFd) -> io::Result<Line> {
        let watch = Rc::new(Watch::default());
        let line = Line { engine: engine.clone(), fd: Some(fd), watch };
        let input = std::os::fd::AsFd::as_fd(line.fd()?);
        let registration = Registration { input, input_blocks: false, output: None, write: true };
        let key = engine.register(registration, line.watch.clone())?;
        line.watch.key.set(Some(key));
        Ok(line)
    }

    fn fd(&self) -> io::Result<&OwnedFd> {
        self.fd.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn into_fd(mut self) -> Option<OwnedFd> {
        self.watch.leave(&self.engine);
        self.fd.take()
    }

    /// Sends as much as the kernel takes now.
    fn send(&self, output: &mut Vec<u8>) -> io::Result<()> {
        while !output.is_empty() {
            match send(self.fd()?, output, SendFlags::NOSIGNAL) {
                Ok(count) => drop(output.drain(..count)),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what belongs to the proxy's reply, and leaves all that is behind it to the kernel. `None` if nothing is there.
    fn receive(&self, negotiation: &mut Negotiation) -> Result<Option<Step>, Problem> {
        let mut buffer = [0; PIECE];
        let look = self.fd().and_then(|fd| Ok(recv(fd, &mut buffer[..], RecvFlags::PEEK)?));
        let seen = match look {
            Ok((0, _)) => return Err(Problem::Proxy("it closed the connection before its reply was complete".into())),
            Ok((seen, _)) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Some(Step::More)),
            Err(error) => return Err(broken(&error)),
        };
        let (mut taken, step) = negotiation.take(&buffer[..seen])?;
        while taken > 0 {
            match self.fd().and_then(|fd| Ok(recv(fd, &mut buffer[..taken], RecvFlags::empty())?)) {
                Ok((0, _)) => break,
                Ok((count, _)) => taken -= count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(Some(step))
    }

    /// Waits for the next event.
    async fn news(&self) {
        poll_fn(|context| self.watch.poll(context)).await;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.watch.leave(&self.engine);
    }
}

impl Watch {
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.news.take() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    fn leave(&self, engine: &Engine) {
        if let Some(key) = self.key.take() {
            engine.deregister(key);
        }
    }
}

impl Handler for Watch {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        self.news.set(true);
        let waker = self.waker.take();
        waker.into_iter().for_each(Waker::wake);
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {
        self.key.take();
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
        let passage = Passage::new(&address, Hops::Known(ways), targets, limit, 1000);
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
