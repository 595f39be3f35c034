//! A line server as a service: `daemon 1234 && client`. The client needs no pause before it: when the command is back,
//! connections are accepted. SIGTERM ends it, SIGHUP loads its answer anew or has a new process take over.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use network::{Error, Server, daemon::Daemon, log::Level, server::Account};

#[derive(Parser)]
struct Args {
    /// Where to listen
    address: String,
    /// Locked, so that there is one daemon, and names its process
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Takes what the daemon has to say
    #[arg(long)]
    log_file: Option<PathBuf>,
    /// Holds what clients are answered; read again at SIGHUP
    #[arg(long)]
    answer: Option<PathBuf>,
    /// At SIGHUP a new process takes the place of this one
    #[arg(long)]
    renew: bool,
    /// How many seconds connections may go on after SIGTERM
    #[arg(long, default_value_t = 0)]
    grace_period: u64,
    /// Who may connect to a unix socket: a group, by its name or number
    #[arg(long)]
    group: Option<String>,
}

fn main() -> ExitCode {
    let outcome = serve(Args::parse()).map_err(complain);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(error: network::Error) {
    eprintln!("daemon: {error}");
}

fn serve(args: Args) -> network::Result {
    // First of all, so that a second daemon is told of the first and not of a port in use.
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
        println!("listening on {place}");
    }
    daemon.run()
}

fn read(path: &Path) -> network::Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::other(format!("{}: {error}", path.display())))
}

/// Starts this program anew, as it was started.
fn renew() -> network::Result {
    let mut command = std::env::args_os();
    network::daemon::hand_over_async(command.next().unwrap_or_default(), command, |result| {
        result.unwrap_or_else(complain)
    })
}
