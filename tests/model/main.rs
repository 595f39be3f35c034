//! Random programs over pairs of connections, against a small model of what each side must see.
//!
//! A schedule is one program, made from a seed and run on real connections of one thread. What each side sees is told to
//! the model as it happens. A program that the model objects to is shrunk and printed. `NETWORK_MODEL_SEED=N` runs that
//! one again, `NETWORK_MODEL_SCHEDULES=N` and `NETWORK_MODEL_MINUTES=N` say how many there are: `./dev soak` sets them.

mod checks;
mod faces;
mod ground;
mod idle;
mod known;
mod model;
mod program;
mod random;
mod raw;
mod shrink;
mod world;

use std::cell::RefCell;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ground::Ground;
use known::Seen;
use model::Model;
use program::Program;

/// The ordinary test: so many schedules, but no longer than this unless there were very few.
const SCHEDULES: u64 = 2000;
const FEWEST: u64 = 500;
const LONGEST: Duration = Duration::from_secs(60);

/// Whatever is to come comes within this time, or never.
const PATIENCE: Duration = Duration::from_secs(4);
const IMPATIENCE: Duration = Duration::from_millis(400);

/// A single schedule that takes this long hangs where no turn of the loop helps.
const HANGS: Duration = Duration::from_secs(30);

/// The schedule that runs just now, and since when: for the watchdog, and for a panic that ends the process.
static RUNNING: Mutex<Option<(Instant, Program)>> = Mutex::new(None);

/// A place to run schedules in, made anew after one that may have left something behind.
struct Runner(RefCell<Option<(glib::MainContext, Ground)>>);

impl Runner {
    fn run(&self, program: &Program, patience: Duration) -> Model {
        *RUNNING.lock().unwrap() = Some((Instant::now(), program.clone()));
        let mut place = self.0.borrow_mut();
        let (context, ground) = place.get_or_insert_with(|| {
            let context = glib::MainContext::new();
            let ground = context.with_thread_default(Ground::new).unwrap();
            (context, ground)
        });
        let model = context.with_thread_default(|| world::run(ground, program, patience)).unwrap();
        if model.objections.iter().any(|objection| objection.rule.leaves_something()) {
            let (context, ground) = place.take().unwrap();
            context.with_thread_default(|| drop(ground)).unwrap();
        }
        *RUNNING.lock().unwrap() = None;
        model
    }

    /// The smallest program that the model objects to for the same reason, and what it says.
    fn shrink(&self, program: &Program) -> (Program, Model) {
        let fault = |program: &Program, patience| {
            let model = self.run(program, patience);
            known::unknown(&model.objections).map(|objection| (objection.rule, objection.face, objection.told.clone()))
        };
        let Some(same) = fault(program, PATIENCE) else { return (program.clone(), self.run(program, PATIENCE)) };
        let smallest = shrink::shrink(program, |candidate| fault(candidate, IMPATIENCE).as_ref() == Some(&same));
        let model = self.run(&smallest, PATIENCE);
        (smallest, model)
    }
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?} is no number")))
}

fn report_what_runs() {
    if let Ok(running) = RUNNING.try_lock()
        && let Some((_, program)) = &*running
    {
        eprintln!("while NETWORK_MODEL_SEED={} ran:\n{program}", program.seed);
    }
}

/// Prints the program if one hangs, or ends the process.
fn watch() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report_what_runs();
        default(info);
    }));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let hangs = RUNNING.lock().unwrap().as_ref().is_some_and(|(since, _)| since.elapsed() > HANGS);
            if hangs {
                report_what_runs();
                eprintln!("it hangs");
                std::process::abort();
            }
        }
    });
}

#[test]
fn random_programs_see_what_they_must() {
    network::set_log(network::LogLevel::Warning, |_| ());
    watch();
    let one = number_of("NETWORK_MODEL_SEED");
    let minutes = number_of("NETWORK_MODEL_MINUTES");
    let wanted = number_of("NETWORK_MODEL_SCHEDULES");
    let is_soak = minutes.is_some() || wanted.is_some();
    let start = one.unwrap_or(1);
    let schedules = wanted.unwrap_or(match (one, minutes) {
        (_, Some(_)) => u64::MAX - start,
        (Some(_), None) => 1,
        (None, None) => SCHEDULES,
    });
    let started = Instant::now();
    let is_over = |done: u64| match minutes {
        Some(minutes) => started.elapsed() > Duration::from_secs(60 * minutes),
        None => !is_soak && done >= FEWEST && started.elapsed() > LONGEST,
    };
    let (seen, runner) = (Seen::new(), Runner(RefCell::new(None)));
    let (mut done, mut faults) = (0, Vec::new());
    for seed in start..start + schedules {
        if is_over(done) {
            break;
        }
        let program = Program::generate(seed);
        let model = runner.run(&program, PATIENCE);
        done += 1;
        seen.count(&model.objections);
        if let Some(objection) = known::unknown(&model.objections) {
            eprintln!("{:?} at {}: {}", objection.rule, objection.side, objection.text);
            let (smallest, model) = runner.shrink(&program);
            eprintln!("NETWORK_MODEL_SEED={seed} cargo test --test model shows it. Shrunk:\n\n{smallest}");
            eprintln!("what was seen:\n{}\n", model.trace.join("\n"));
            faults.push(seed);
            if !is_soak || faults.len() >= 20 {
                break;
            }
        }
    }
    let rate = done as f64 / started.elapsed().as_secs_f64();
    println!("{done} schedules from seed {start} on, {rate:.0} a second, {} with faults: {faults:?}", faults.len());
    if is_soak {
        seen.report();
    }
    assert!(faults.is_empty(), "the model objects");
}
