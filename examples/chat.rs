//! A chat room that is found by its name on the local network: `chat Kitchen Ann`. The first user opens the room and the
//! others join it, without addresses or ports, over TLS. Requires the Avahi daemon. The room closes when its opener leaves.

use std::cell::OnceCell;
use std::io::{stdin, stdout};
use std::os::fd::AsFd;
use std::rc::Rc;

use network::{Address, ClientTls, Error, Result, Server, Socket};

const USAGE: &str = "chat ROOM NICKNAME";

const HELP: &str = "
Joins the chat room ROOM on the local network, or opens it if there is none. Lines that are typed go to everybody there.

  ROOM      name of the room, such as Kitchen
  NICKNAME  your name, in front of each of your lines

Requires the Avahi daemon. The end of the input (Ctrl-D) leaves the room; the room closes when its opener leaves.";

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (room, nick) = match &arguments[..] {
        [help, ..] if help == "-h" || help == "--help" => {
            say(format_args!("usage: {USAGE}\n{HELP}"));
            return Ok(());
        }
        [room, nick] => (room, nick),
        _ => {
            eprintln!("usage: {USAGE}");
            std::process::exit(2);
        }
    };
    let terminal = Socket::wrap(stdin().as_fd().try_clone_to_owned()?, stdout().as_fd().try_clone_to_owned()?)?;
    // Called at the end of the input.
    terminal.disconnect_cb(|_, _| network::endloop());

    // Trust on first use: later, a room of this name must have the same key.
    let builder = Socket::builder().tls(ClientTls::on_first_use());
    let (name, nick) = (room.clone(), nick.clone());
    builder.connect_async(Address::service("chat", room)?, gio::Cancellable::NONE, move |result| {
        let entered = match result {
            Ok(room) => join(room, terminal, nick),
            Err(Error::ServiceNotFound { .. }) => open(&name, terminal, nick),
            Err(error) => Err(error),
        };
        if let Err(error) = entered {
            eprintln!("{error}");
            std::process::exit(1);
        }
    });
    network::fgloop();
    Ok(())
}

/// Sends typed lines to the room and shows the lines from there.
fn join(room: Socket, terminal: Socket, nick: String) -> Result {
    let screen = terminal.clone();
    room.readlines(move |_, line| screen.sendline(plain(line)));
    room.disconnect_cb(|_, end| {
        eprintln!("The room is closed: {}", end.reason);
        network::endloop();
    });
    terminal.readlines(move |_, line| room.sendline(format!("{nick}: {line}")));
    Ok(())
}

/// Opens a room of this name and forwards each line to all other members.
fn open(name: &str, terminal: Socket, nick: String) -> Result {
    let room = Rc::new(OnceCell::<Server>::new());
    let (members, screen) = (room.clone(), terminal.clone());
    let server = Server::builder()
        .service_name(name)
        .published_cb(glib::clone!(
            #[strong]
            terminal,
            move |_, name| drop(terminal.sendline(format!("The room {name:?} is open.")))
        ))
        .listen("chat|", move |socket| {
            let (members, screen) = (members.clone(), screen.clone());
            // From here on, the member receives the lines of others.
            socket.sendline("You are in the room.")?;
            socket.readlines(move |speaker, line| {
                tell(&members, Some(speaker), line);
                screen.sendline(plain(line))
            });
            Ok(())
        })?;
    let _ = room.set(server);
    terminal.readlines(move |_, line| {
        tell(&room, None, &format!("{nick}: {line}"));
        Ok(())
    });
    Ok(())
}

fn tell(room: &OnceCell<Server>, speaker: Option<&Socket>, line: &str) {
    for member in room.get().map(Server::connections).unwrap_or_default() {
        // Sending fails for members that read too slowly, which miss lines, and for those that have left.
        if Some(&member) != speaker {
            let _ = member.sendline(line);
        }
    }
}

/// Replaces characters with which others could control the terminal or reorder its text.
fn plain(line: &str) -> String {
    let is_unsafe = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    line.replace(is_unsafe, "\u{fffd}")
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
