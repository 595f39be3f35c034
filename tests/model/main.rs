//! Random programs over pairs of connections, against a small model of what each side must see.
//!
//! A schedule is one program, made from a seed and run on real connections of one thread. What each side sees is told to
//! the model as it happens. A program that the model objects to is shrunk and printed. `NETWORK_MODEL_SEED=N` runs that
//! one again, `NETWORK_MODEL_SCHEDULES=N` and `NETWORK_MODEL_MINUTES=N` say how many there are: `./dev soak` sets them.

mod checks;
mod events;
mod faces;
mod ground;
mod idle;
mod model;
mod program;
mod random;
mod raw;
mod shrink;
mod world;

use std::cell::RefCell;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ground::Ground;
use model::{Model, Objection};
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
            model.objections.first().map(|objection| (objection.rule, objection.face, objection.told.clone()))
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
        // What is printed by the macros is kept back in a test, and lost if the process ends.
        let _ = writeln!(std::io::stderr(), "while NETWORK_MODEL_SEED={} ran:\n{program}", program.seed);
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
                let _ = writeln!(std::io::stderr(), "it hangs");
                std::process::abort();
            }
        }
    });
}

/// How many schedules, from which seed on.
struct Plan {
    start: u64,
    schedules: u64,
    limit: Option<Duration>,
    /// Goes on after a fault.
    is_soak: bool,
}

impl Plan {
    fn of_environment() -> Plan {
        let seed = number_of("NETWORK_MODEL_SEED");
        let schedules = number_of("NETWORK_MODEL_SCHEDULES");
        let minutes = number_of("NETWORK_MODEL_MINUTES");
        let start = seed.unwrap_or(1);
        let is_soak = schedules.is_some() || minutes.is_some();
        let all = match (seed, minutes) {
            (_, Some(_)) => u64::MAX - start,
            (Some(_), None) => 1,
            (None, None) => SCHEDULES,
        };
        let ordinary = (!is_soak).then_some(LONGEST);
        let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes)).or(ordinary);
        Plan { start, schedules: schedules.unwrap_or(all), limit, is_soak }
    }

    fn is_over(&self, done: u64, since: Instant, faults: usize) -> bool {
        let time_up = self.limit.is_some_and(|limit| since.elapsed() > limit);
        let enough = self.is_soak || done >= FEWEST;
        (time_up && enough) || faults >= if self.is_soak { 20 } else { 1 }
    }
}

/// Says what was wrong, and how little it takes.
fn tell(runner: &Runner, program: &Program, objection: &Objection) {
    eprintln!("{:?} at {}: {}\n\n{program}", objection.rule, objection.side, objection.text);
    let (smallest, model) = runner.shrink(program);
    eprintln!("NETWORK_MODEL_SEED={} cargo test --test model shows it. Shrunk:\n\n{smallest}", program.seed);
    eprintln!("what was seen:\n{}\n", model.trace.join("\n"));
}

#[test]
fn random_programs_see_what_they_must() {
    network::log::set_log(network::log::Level::Warning, |_| ());
    watch();
    let plan = Plan::of_environment();
    let runner = Runner(RefCell::new(None));
    let since = Instant::now();
    let (mut done, mut faults, mut slowest) = (0, Vec::new(), (Duration::ZERO, 0));
    for seed in plan.start..plan.start + plan.schedules {
        if plan.is_over(done, since, faults.len()) {
            break;
        }
        let program = Program::generate(seed);
        let begun = Instant::now();
        let model = runner.run(&program, PATIENCE);
        slowest = slowest.max((begun.elapsed(), seed));
        done += 1;
        if let Some(objection) = model.objections.first() {
            faults.push(seed);
            tell(&runner, &program, objection);
        }
    }
    let rate = done as f64 / since.elapsed().as_secs_f64();
    println!(
        "{done} schedules from seed {} on, {rate:.0} a second, {} with faults: {faults:?}",
        plan.start,
        faults.len()
    );
    println!("the slowest, of seed {}, took {:.0?}", slowest.1, slowest.0);
    assert!(faults.is_empty(), "the model objects");
}
