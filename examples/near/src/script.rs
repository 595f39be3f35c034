//! The application without its window, driven by a script. Tests use it; it shows all that happens, one line each.
//!
//! ```text
//! wait-device NAME      until there is a link        wait-secure NAME    until it is paired and there
//! wait-gone NAME        until it is away             wait-other-key NAME until it shows another key
//! pair NAME             asks                         accept              waits to be asked, and says yes
//! code-to FILE          writes the code shown        code-from FILE      waits for the file, and types its code
//! type DIGITS           types these                  wait-paired, wait-refused     until a pairing ends so
//! text WORDS, send FILE|FILE… to the device named last     wait-text WORDS, wait-file, wait-sent, wait-failed
//! wait-moving           until bytes of a file have come or gone
//! stop, again           the last transfer                    wait-stopped
//! wait-code             until there is one to compare        rest       until another pairing may begin
//! cancel, connect ADDRESS, forget, touch FILE, wait FILE     quit
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use crate::near::{Change, Near, PairingState, State, TransferState, What};

/// What has happened and no command has waited for yet.
#[derive(Default)]
struct Script {
    commands: VecDeque<String>,
    device: String,
    events: VecDeque<String>,
    /// When a pairing has ended. For five seconds, there is no other.
    ended: Option<Instant>,
}

/// All commands, and whether each needs something behind it.
const COMMANDS: [(&str, bool); 28] = [
    ("wait-device", true),
    ("wait-secure", true),
    ("wait-gone", true),
    ("wait-other-key", true),
    ("pair", true),
    ("accept", false),
    ("code-to", true),
    ("code-from", true),
    ("type", true),
    ("rest", false),
    ("wait-code", false),
    ("wait-paired", false),
    ("wait-refused", false),
    ("wait-text", false),
    ("wait-file", false),
    ("wait-sent", false),
    ("wait-failed", false),
    ("wait-moving", false),
    ("wait-stopped", false),
    ("stop", false),
    ("again", false),
    ("text", true),
    ("send", true),
    ("connect", true),
    ("forget", false),
    ("cancel", false),
    ("touch", true),
    ("wait", true),
];

/// Returns the commands of a file. The error names the line that has none.
pub fn parse(text: &str) -> Result<Vec<String>, String> {
    let mut commands = Vec::new();
    for (n, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match COMMANDS.iter().find(|(known, _)| *known == verb) {
            _ if line.starts_with('#') => {}
            Some((_, true)) if rest.is_empty() => return Err(format!("line {}: {verb} needs a value", n + 1)),
            None if line != "quit" => return Err(format!("line {}: unknown command “{verb}”", n + 1)),
            _ => commands.push(line.to_owned()),
        }
    }
    Ok(commands)
}

/// Runs commands that [`parse`] has checked one after the other, and calls `done` after the last one.
pub fn run(near: &Near, commands: Vec<String>, done: impl Fn() + 'static) {
    let script = Script { commands: commands.into(), ..Script::default() };
    let script = Rc::new(RefCell::new(script));
    let (seen, own) = (script.clone(), near.clone());
    let started = Instant::now();
    println!("started");
    near.connect_change(move |change| {
        for event in events(&own, change) {
            println!("{:8.3} {event}", started.elapsed().as_secs_f64());
            if matches!(change, Change::PairingEnded { .. }) {
                seen.borrow_mut().ended = Some(Instant::now());
            }
            seen.borrow_mut().events.push_back(event);
        }
    });
    let near = near.clone();
    let _ = network::spawn(async move {
        loop {
            let Some(command) = script.borrow().commands.front().cloned() else { break };
            if command == "quit" {
                break;
            }
            if step(&near, &mut script.borrow_mut(), &command) {
                println!("{:8.3} done: {command}", started.elapsed().as_secs_f64());
                script.borrow_mut().commands.pop_front();
                continue;
            }
            // Files of other processes make no event here.
            network::sleep(std::time::Duration::from_millis(5)).await;
        }
        done();
        Ok(())
    });
}

/// Does a command. Returns whether it is done.
fn step(near: &Near, script: &mut Script, command: &str) -> bool {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let named = |name: &str| near.devices().into_iter().find(|device| device.name == name);
    let pairing = || {
        near.devices().into_iter().find_map(|device| match device.state {
            State::Pairing(state) => Some((device.id, state)),
            _ => None,
        })
    };
    let device = script.device.clone();
    let transfer = || {
        let lines = near.lines(&device).into_iter().rev();
        lines.filter_map(|line| if let What::File(file) = line.what { Some(file.id) } else { None }).next()
    };
    let happened = |script: &mut Script, wanted: &str| {
        let found = script.events.iter().position(|event| event.starts_with(wanted));
        found.map(|at| script.events.drain(..=at).count()).is_some()
    };
    match verb {
        "wait-device" | "wait-secure" | "wait-gone" | "wait-other-key" => {
            let Some(device) = named(rest) else { return false };
            script.device = device.id;
            match device.state {
                State::Secure => verb == "wait-secure" || verb == "wait-device",
                State::NotPaired | State::Pairing(_) => verb == "wait-device",
                State::Gone { .. } | State::Unreachable => verb == "wait-gone",
                State::OtherKey => verb == "wait-other-key",
                _ => false,
            }
        }
        "pair" => named(rest).map(|device| near.pair(&device.id)).is_some(),
        "accept" => match pairing() {
            Some((id, PairingState::AskedByThem { .. } | PairingState::WaitingForThem { code: Some(_) })) => {
                near.answer(&id, true);
                true
            }
            _ => false,
        },
        "code-to" => match pairing() {
            Some((_, PairingState::ShowCode { digits })) => {
                let part = format!("{rest}.part");
                std::fs::write(&part, digits).and_then(|()| std::fs::rename(part, rest)).is_ok()
            }
            _ => false,
        },
        "code-from" | "type" => match pairing() {
            Some((id, PairingState::EnterCode { .. })) => {
                let digits = if verb == "type" { Ok(rest.into()) } else { std::fs::read_to_string(rest) };
                digits.map(|digits| near.enter_code(&id, &digits)).is_ok()
            }
            _ => false,
        },
        "rest" => script.ended.is_none_or(|ended| ended.elapsed() > std::time::Duration::from_secs(5)),
        "wait-code" => matches!(
            pairing(),
            Some((_, PairingState::WaitingForThem { code: Some(_) } | PairingState::AskedByThem { code: Some(_), .. }))
        ),
        "wait-paired" => happened(script, "paired"),
        "wait-refused" => happened(script, "not paired"),
        "wait-text" => happened(script, &format!("text {rest}")),
        "wait-file" => happened(script, "received"),
        "wait-sent" => happened(script, "sent"),
        "wait-failed" => happened(script, "failed"),
        "wait-moving" => happened(script, "moves"),
        "wait-stopped" => happened(script, "stopped"),
        "stop" => transfer().map(|transfer| near.stop(transfer)).is_some(),
        "again" => transfer().map(|transfer| near.again(transfer)).is_some(),
        "text" => near.send_text(&script.device, rest).is_ok(),
        "send" => {
            let files: Vec<PathBuf> = rest.split('|').map(PathBuf::from).collect();
            near.send_files(&script.device, &files).is_ok()
        }
        "connect" => near.connect_to(rest).is_ok(),
        "forget" => {
            near.forget(&script.device);
            true
        }
        "cancel" => pairing().map(|(id, _)| near.cancel_pairing(&id)).is_some(),
        "touch" => std::fs::write(rest, "").is_ok(),
        "wait" => std::path::Path::new(rest).exists(),
        // `parse` lets none pass that is missing here.
        _ => true,
    }
}

/// What has happened, in words.
fn events(near: &Near, change: &Change) -> Vec<String> {
    match change {
        Change::Devices => {
            let states = near.devices().into_iter().map(|device| {
                format!("device {} at {}: {:?}", device.name, device.address.unwrap_or_default(), device.state)
            });
            states.collect()
        }
        Change::Line { device, index } => near.lines(device).get(*index).map_or(Vec::new(), |line| match &line.what {
            What::Text(text) if !line.ours => vec![format!("text {text}")],
            What::Link(link) if !line.ours => vec![format!("link {link}")],
            What::Ping(message) if !line.ours => vec![format!("ping {message}")],
            _ => Vec::new(),
        }),
        Change::Transfer(id) => {
            let lines = near.devices().into_iter().flat_map(|device| near.lines(&device.id));
            let transfer = lines.filter_map(|line| if let What::File(file) = line.what { Some(file) } else { None });
            transfer
                .filter(|file| file.id == *id)
                .map(|file| match file.state {
                    TransferState::Received(path) => format!("received {} at {} B/s", path.display(), file.speed),
                    TransferState::Sent => format!("sent {} at {} B/s", file.name, file.speed),
                    TransferState::Failed(why) => format!("failed {}: {why}", file.name),
                    TransferState::Stopped => format!("stopped {}", file.name),
                    _ if file.done == 0 => format!("begins {}", file.name),
                    _ => format!("moves {} {} of {}", file.name, file.done, file.size),
                })
                .collect()
        }
        Change::PairingEnded { result: Ok(strong), .. } => vec![format!("paired, strong: {strong}")],
        Change::PairingEnded { result: Err(why), .. } => vec![format!("not paired: {why}")],
        Change::Notice(text) => vec![format!("notice {text}")],
        Change::Device(id) => {
            let device = near.device(id).map(|device| format!("state {}: {:?}", device.name, device.state));
            device.into_iter().collect()
        }
        Change::Network => vec![format!("network up: {}, avahi: {}", near.network().up, near.network().avahi)],
    }
}
