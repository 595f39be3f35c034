//! The window under a private Xvfb, fed with plain values: each state in words, each control with a name and in reach of the
//! keyboard, no text cut at twice the size, each wish passed on; and frames while much changes.
//!
//! With `--screenshot DIR [--large]` the scenes are drawn into files instead, at twice the size of text if wanted.

mod checks;
#[path = "../../../../tests/common/mod.rs"]
mod common;
mod notify;
mod scenes;
mod smooth;
mod stage;
#[path = "../world/mod.rs"]
mod world;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use adw::prelude::*;

/// Whatever takes this long hangs.
const HANGS: Duration = Duration::from_secs(240);
/// Whoever says this has found a fault in the widgets. GIO complains that there is no bus here, which is right.
const COMPLAINTS: [&str; 5] = ["Gtk-CRITICAL", "Gtk-WARNING", "Adwaita-CRITICAL", "Adwaita-WARNING", "near-CRITICAL"];
/// Set for the process that has the window.
const INNER: &str = "NEAR_TEST_UI";

fn main() -> ExitCode {
    match std::env::var(INNER).as_deref() {
        Ok("first-frame") => smooth::first_frame(),
        Ok("announce") => smooth::announce(false),
        Ok("refuse") => smooth::announce(true),
        Ok("notify") => notify::inside(),
        Ok(_) => inside(),
        Err(_) => with_display(),
    }
}

fn with_display() -> ExitCode {
    let mut xvfb = common::tool("/usr/bin/Xvfb");
    xvfb.args(["-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp", "-terminate"])
        .stdin(Stdio::null());
    let xvfb = common::Process::start_as_set(&mut xvfb, common::Watch::Stdout);
    let display = format!(":{}", xvfb.line());
    let data = common::TempDir::new();
    let mut inner = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env(INNER, "1")
        .env("DISPLAY", display)
        .env("GDK_BACKEND", "x11")
        .env("GDK_DEBUG", "gl-disable")
        .env("GSK_RENDERER", "cairo")
        .env("GSETTINGS_BACKEND", "memory")
        .env("GTK_A11Y", "none")
        .env("DBUS_SESSION_BUS_ADDRESS", "disabled:")
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
        .env("XDG_DATA_HOME", data.path(""))
        .env("LC_ALL", "C.UTF-8")
        .env_remove("WAYLAND_DISPLAY")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut complaints = 0;
    for line in BufReader::new(inner.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        complaints += usize::from(COMPLAINTS.iter().any(|from| line.contains(from)));
        eprintln!("{line}");
    }
    let status = inner.wait().unwrap();
    assert_eq!(complaints, 0, "GTK complains about the widgets");
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn inside() -> ExitCode {
    std::thread::spawn(|| {
        std::thread::sleep(HANGS);
        eprintln!("still running after {HANGS:?}");
        std::process::exit(1);
    });
    let application = application();
    gtk4::Settings::default().unwrap().set_gtk_enable_animations(false);

    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--screenshot") {
        if arguments.iter().any(|argument| argument == "--large") {
            gtk4::Settings::default().unwrap().set_gtk_xft_dpi(2 * 96 * 1024);
        }
        let directory = PathBuf::from(arguments.get(at + 1).expect("--screenshot DIR"));
        screenshots(&application, &directory);
        return ExitCode::SUCCESS;
    }
    let tests = checks::ALL.iter().chain(notify::ALL).chain(smooth::ALL);
    // As the usual harness: a part of a name chooses.
    let chosen = arguments.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut passed = 0;
    for (name, test) in tests.filter(|(name, _)| name.contains(&chosen)) {
        println!("{name}");
        test(&application);
        passed += 1;
    }
    println!("test result: ok. {passed} passed; 0 failed");
    ExitCode::SUCCESS
}

fn application() -> adw::Application {
    adw::init().expect("a display");
    let application = adw::Application::builder().flags(gio::ApplicationFlags::NON_UNIQUE).build();
    application.register(gio::Cancellable::NONE).unwrap();
    application
}

fn screenshots(application: &adw::Application, directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    for scene in scenes::all() {
        let window = stage::open(application, &scene);
        stage::picture(&window, &directory.join(format!("{}.png", scene.name)));
        stage::close(window);
    }
}
