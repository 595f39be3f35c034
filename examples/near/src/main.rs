//! The command line of "Near".
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use gio::prelude::ApplicationExt;
use near::near::{Near, Options};
use near::script;

const USAGE: &str = "near [--data DIR] [--downloads DIR] [--name NAME] [--port N] [--headless] [--script FILE]";

fn main() -> ExitCode {
    let user = |kind: glib::UserDirectory| glib::user_special_dir(kind);
    let mut options = Options {
        data: glib::user_data_dir().join("near"),
        name: None,
        port: 1716,
        downloads: user(glib::UserDirectory::Downloads).unwrap_or_else(glib::home_dir),
    };
    let (mut headless, mut commands) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        match argument.as_str() {
            "--data" => options.data = value().into(),
            "--downloads" => options.downloads = value().into(),
            "--name" => options.name = Some(value()),
            "--port" => options.port = value().parse().unwrap_or(1716),
            "--headless" => headless = true,
            "--script" => commands = Some(PathBuf::from(value())),
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::FAILURE;
            }
        }
    }
    let commands = commands.map(|file| std::fs::read_to_string(file).unwrap_or_default());
    if headless { without_window(options, commands) } else { with_window(options, commands) }
}

fn with_window(options: Options, commands: Option<String>) -> ExitCode {
    // Each start is one of its own: a second one finds the port taken, and says so.
    let flags = gio::ApplicationFlags::NON_UNIQUE;
    let application = adw::Application::builder().application_id("org.example.Near").flags(flags).build();
    application.connect_activate(move |application| {
        let near = Near::open(options.clone());
        if let (Ok(near), Some(commands)) = (&near, &commands) {
            let application = application.clone();
            script::run(near, commands, move || application.quit());
        }
        near::ui::open(application, near);
    });
    gio::prelude::ApplicationExtManual::run_with_args::<&str>(&application, &[]);
    ExitCode::SUCCESS
}

fn without_window(options: Options, commands: Option<String>) -> ExitCode {
    match Near::open(options) {
        Ok(near) => {
            script::run(&near, commands.as_deref().unwrap_or("wait /nowhere/never"), network::endloop);
            network::fgloop();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
