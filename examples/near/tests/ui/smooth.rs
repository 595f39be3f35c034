//! The whole application: the time to its first frame, wake-ups at rest, and frames while a file arrives and many devices
//! announce themselves. `tests/window` of the library measures in the same way.

use std::cell::{Cell, RefCell};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::rc::Rc;
use std::time::{Duration, Instant};

use adw::prelude::*;
use glib::ControlFlow;
use near::near::{Change, Device, Near, Options, State, TransferState, What};
use near::ui::{self, Window};

use super::checks::Test;
use super::scenes::{self, device};
use super::stage::{self, button, shown, texts, until};
use super::world::{NEAR, world};
use super::{INNER, application};

pub const ALL: &[Test] = &[
    ("an_idle_window_sleeps", an_idle_window_sleeps),
    ("the_program_starts_and_ends", the_program_starts_and_ends),
    ("the_first_frame_comes_soon", the_first_frame_comes_soon),
    ("frames_go_on_while_the_list_changes", frames_go_on_while_the_list_changes),
    ("frames_go_on_while_a_file_arrives", frames_go_on_while_a_file_arrives),
];

/// A machine that is busy with something else may spoil a measure: it has so many tries.
const TRIES: usize = 3;
const WATCHED: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(1);
const FILE: usize = 256 << 20;

fn an_idle_window_sleeps(application: &adw::Application) {
    let mut scene = scenes::all().into_iter().find(|scene| scene.name == "empty").unwrap();
    let names = ["Study laptop", "Attic", "Workshop"];
    scene.source.devices.replace(names.map(|name| device(name, "laptop", State::Secure)).into());
    scene.chosen = Some("attic");
    let window = stage::open(application, &scene);
    // What opening has left to do is done.
    stage::frames(&window, 10);
    RootExt::set_focus(&window, None::<&gtk4::Widget>);
    let mut wakes = usize::MAX;
    for _ in 0..TRIES {
        let over = Rc::new(Cell::new(false));
        let set = over.clone();
        glib::timeout_add_local_once(Duration::from_secs(3), move || set.set(true));
        let mut count = 0;
        while !over.get() {
            count += usize::from(glib::MainContext::default().iteration(true));
        }
        wakes = wakes.min(count);
    }
    println!("    {wakes} wake-ups in 3 s");
    assert!(wakes <= 4, "{wakes} wake-ups in 3 s");
    stage::close(window);
}

fn options(data: PathBuf) -> Options {
    Options { downloads: data.join("files"), data, name: Some("anna".into()), port: 1716 }
}

/// What the process does that `the_first_frame_comes_soon` starts.
pub fn first_frame() -> ExitCode {
    let window = ui::open(&application(), Near::open(options(std::env::var_os("XDG_DATA_HOME").unwrap().into())));
    stage::frames(&window, 1);
    ExitCode::SUCCESS
}

/// The program itself, whose script ends it at once.
fn the_program_starts_and_ends(_: &adw::Application) {
    let Some(world) = world("the_program_starts_and_ends", 1) else { return };
    let script = world.path("script");
    std::fs::write(&script, "quit\n").unwrap();
    let (data, mut near) = (world.path("data"), Command::new(NEAR));
    near.args(["--name", "anna", "--data", &data, "--downloads", &data, "--script", &script]);
    assert!(near.status().unwrap().success());
}

fn the_first_frame_comes_soon(_: &adw::Application) {
    if world("the_first_frame_comes_soon", 1).is_none() {
        return;
    }
    let mut best = Duration::MAX;
    // The first one makes a certificate, and warms the disk's cache.
    for _ in 0..=TRIES {
        let begun = Instant::now();
        let status = Command::new(std::env::current_exe().unwrap()).env(INNER, "first-frame").status().unwrap();
        assert!(status.success());
        best = best.min(begun.elapsed());
    }
    println!("    start to first frame, and end: {best:?}");
    assert!(best <= SOON, "{best:?}");
}

/// The ports of 200 devices, which are all at one address.
const PORTS: Range<usize> = 1720..1760;

/// What the process does that stands for 200 devices. Either all can be reached, and none of them ends the opening, or none can.
pub fn announce(refuses: bool) -> ExitCode {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for port in PORTS.filter(|_| !refuses) {
        let listener = TcpListener::bind(("0.0.0.0", port as u16)).unwrap();
        std::thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    }
    let identities: Vec<String> = (0..200)
        .map(|n| {
            let (n, port) = (n + 1000 * usize::from(refuses), PORTS.start + n % PORTS.len());
            format!(
                r#"{{"id":1,"type":"kdeconnect.identity","body":{{"deviceId":"{n:032x}","deviceName":"Device {n}","deviceType":"phone","protocolVersion":7,"tcpPort":{port},"incomingCapabilities":[],"outgoingCapabilities":[]}}}}"#
            ) + "\n"
        })
        .collect();
    loop {
        let begun = Instant::now();
        for identity in &identities {
            let _ = socket.send_to(identity.as_bytes(), "10.9.1.1:1716");
        }
        std::thread::sleep(Duration::from_millis(100).saturating_sub(begun.elapsed()));
    }
}

fn frames_go_on_while_the_list_changes(application: &adw::Application) {
    let mut scene = scenes::all().into_iter().find(|scene| scene.name == "talk").unwrap();
    scene
        .source
        .devices
        .borrow_mut()
        .extend((0..61).map(|n| device(&format!("Device {n}"), "phone", State::Unreachable)));
    scene.chosen = Some("study_laptop");
    let window = stage::open(application, &scene);
    let mut outcome = Err(String::new());
    for _ in 0..TRIES {
        let usual = watch(&window);
        let weak = window.downgrade();
        let changes = glib::timeout_add_local(Duration::from_millis(5), move || {
            if let Some(window) = weak.upgrade() {
                window.changed(&Change::Devices);
            }
            ControlFlow::Continue
        });
        let frames = watch(&window);
        changes.remove();
        println!("    {} frames of {}, longest interval {:?}", frames.count, usual.count, frames.longest);
        outcome = judge(&usual, &frames);
        if outcome.is_ok() {
            break;
        }
    }
    assert_eq!(outcome, Ok(()));
    stage::close(window);
}

fn judge(usual: &Frames, frames: &Frames) -> Result<(), String> {
    if frames.count * 10 < usual.count * 9 {
        return Err(format!("{} frames, {} without the load", frames.count, usual.count));
    }
    if frames.longest > usual.longest + LATE {
        return Err(format!("{:?} without a frame, {:?} without the load", frames.longest, usual.longest));
    }
    Ok(())
}

struct Frames {
    count: usize,
    /// Between two frames, or one and the beginning or end of the time.
    longest: Duration,
}

/// Draws the window in each frame, and notes when.
fn watch(window: &Window) -> Frames {
    let painted = Rc::new(RefCell::new(vec![Instant::now()]));
    let times = painted.clone();
    let clock = window.surface().unwrap().frame_clock();
    let signal = clock.connect_after_paint(move |_| times.borrow_mut().push(Instant::now()));
    let tick = window.add_tick_callback(|window, _| {
        window.queue_draw();
        ControlFlow::Continue
    });
    let main = glib::MainLoop::new(None, false);
    let end = main.clone();
    glib::source::timeout_add_local_full(WATCHED, glib::Priority::HIGH, move || {
        end.quit();
        ControlFlow::Break
    });
    main.run();
    tick.remove();
    clock.disconnect(signal);
    let mut times = painted.borrow_mut();
    times.push(Instant::now());
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    Frames { count: times.len() - 2, longest }
}

fn frames_go_on_while_a_file_arrives(application: &adw::Application) {
    let Some(world) = world("frames_go_on_while_a_file_arrives", 1) else { return };
    std::fs::write(world.path("big"), vec![b'b'; FILE]).unwrap();
    let near = Near::open(options(world.path("anna.data").into())).unwrap();
    let window = ui::open(application, Ok(near.clone()));
    stage::frames(&window, 3);

    let (code, go) = (world.path("code"), |n: usize| world.path(&format!("go{n}")));
    let mut script = format!("wait-device anna\npair anna\ncode-from {code}\nwait-paired\nwait-secure anna\n");
    for n in 0..TRIES {
        script += &format!("wait {}\nsend {}\nwait-sent\n", go(n), world.path("big"));
    }
    let bert = world.device(1, "bert", &(script + "quit"));

    // Paired through the window alone.
    let reads = |wanted: &str| texts(&shown(&window)).iter().any(|text| text == wanted);
    until("bert asks", || reads("Show Code"));
    button(&window, "Show Code").emit_clicked();
    until("the code is shown", || reads("Code for “bert”"));
    let digits = texts(&shown(&window))
        .into_iter()
        .find(|text| text.len() == 7 && text.chars().all(|letter| letter.is_ascii_digit() || letter == ' '));
    std::fs::write(format!("{code}.part"), digits.expect("six digits in two groups")).unwrap();
    std::fs::rename(format!("{code}.part"), &code).unwrap();
    until("they are paired", || reads("Secure"));
    let bert_id = near.devices().into_iter().find(|device| device.name == "bert").unwrap().id;
    window.choose(&bert_id);

    let usual = watch(&window);
    println!("    undisturbed: {} frames in {WATCHED:?}, longest interval {:?}", usual.count, usual.longest);
    let crowd = |what: &str| {
        let mut crowd = world.command(1, std::env::current_exe().unwrap().to_str().unwrap());
        crowd.env(INNER, what).spawn().unwrap()
    };
    let mut reachable = crowd("announce");
    until("some are seen", || near.devices().len() >= 8);
    let mut outcome = Err(String::new());
    for n in 0..TRIES {
        std::fs::write(go(n), "").unwrap();
        let file = || {
            near.lines(&bert_id)
                .into_iter()
                .filter_map(|line| match line.what {
                    What::File(file) => Some(file),
                    _ => None,
                })
                .nth(n)
        };
        until("the file comes", || file().is_some_and(|file| file.done > 0));
        let before = file().unwrap().done;
        let frames = watch(&window);
        let moved = file().unwrap().done - before;
        println!(
            "    200 devices and a file: {} frames, longest interval {:?}, {} MB/s",
            frames.count,
            frames.longest,
            moved as f64 / WATCHED.as_secs_f64() / 1e6
        );
        until("the file is there", || file().is_some_and(|file| matches!(file.state, TransferState::Received(_))));
        outcome = judge(&usual, &frames);
        if outcome.is_ok() {
            break;
        }
    }
    reachable.kill().unwrap();
    reachable.wait().unwrap();
    bert.kill();
    assert_eq!(outcome, Ok(()));

    let mut refusing = crowd("refuse");
    let is_one = |device: &Device| device.id.ends_with("3e8") && device.state == State::Unreachable;
    until("they are seen", || near.devices().iter().any(is_one));
    for _ in 0..TRIES {
        let frames = watch(&window);
        println!("    200 devices that refuse: {} frames, longest interval {:?}", frames.count, frames.longest);
        outcome = judge(&usual, &frames);
        if outcome.is_ok() {
            break;
        }
    }
    refusing.kill().unwrap();
    refusing.wait().unwrap();
    assert_eq!(outcome, Ok(()));
    stage::close(window);
}
