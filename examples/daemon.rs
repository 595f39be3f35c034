//! A line server as a daemon: `daemon 1234 && client`. No pause is needed between the two: the command returns when the
//! server accepts connections. SIGTERM ends it; SIGHUP reloads its answer or hands over to a new process.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use network::{Error, Server, daemon::Daemon, log::Level, server::Account};

/// A line server that runs in the background.
///
/// The command returns when clients can connect, with status 0, or with status 1 and the reason. With NETWORK_NO_FORK=1 in
/// the environment, the server stays in the foreground. SIGTERM ends it.
#[derive(Parser)]
struct Args {
    /// Address to listen on
    address: String,
    /// Pid file, locked so that only one daemon runs
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Log file, reopened at SIGHUP
    #[arg(long)]
    log_file: Option<PathBuf>,
    /// File with the answer to clients, read again at SIGHUP
    #[arg(long)]
    answer: Option<PathBuf>,
    /// Hand over to a new process at SIGHUP
    #[arg(long)]
    renew: bool,
    /// Grace period of connections after SIGTERM, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = seconds)]
    grace_period: u64,
    /// Group that may connect to a unix socket, by name or number
    #[arg(long)]
    group: Option<String>,
}

fn seconds(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number of seconds")
}

fn main() -> ExitCode {
    let outcome = serve(Args::parse()).map_err(complain);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(error: network::Error) {
    eprintln!("daemon: {error}");
}

fn serve(args: Args) -> network::Result {
    // First of all, so that a second daemon reports the first one, not a port in use.
    let mut daemon = Daemon::new();
    if let Some(path) = &args.pid_file {
        daemon = daemon.pid_file(path)?;
    }
    if let Some(path) = &args.log_file {
        daemon = daemon.log_file(path)?;
        network::log::set_log(Level::Info, |record| eprintln!("{record}"));
    }
    network::daemon::set_grace_period(std::time::Duration::from_secs(args.grace_period));
    let load = move || match &args.answer {
        Some(path) => read(path),
        None => Ok("You said:".into()),
    };
    let answer = Rc::new(RefCell::new(load()?));
    let loaded = answer.clone();
    let reload = move || if args.renew { renew() } else { load().map(|new| *loaded.borrow_mut() = new) };
    network::daemon::on_reload(move || reload().unwrap_or_else(complain))?;
    let mut builder = Server::builder().replace_stale(true);
    if let Some(group) = args.group {
        builder = builder.group(group.parse().map_or(Account::Name(group), Account::Id));
    }
    let server = builder.listen(args.address, move |socket| {
        socket.sendline(format!("daemon {}", std::process::id()))?;
        let answer = answer.clone();
        socket.readlines(move |socket, line| socket.sendline(format!("{} {line}", answer.borrow().trim_end())));
        Ok(())
    })?;
    for place in server.local() {
        // Nobody may be interested, and clients are to be served all the same.
        let _ = writeln!(std::io::stdout(), "listening on {place}");
    }
    daemon.run()
}

fn read(path: &Path) -> network::Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::other(format!("{}: {}", path.display(), Error::from(error))))
}

/// Starts this program again, with the same arguments, and hands over to it.
fn renew() -> network::Result {
    let mut command = std::env::args_os();
    network::daemon::hand_over_async(command.next().unwrap_or_default(), command, |result| {
        result.unwrap_or_else(complain)
    })
}
