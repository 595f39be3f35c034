//! Every row of the table of states, and any order of events, with a clock that the test moves.

mod waits;

use proptest::prelude::*;

use super::*;
use crate::link::backoff::Dice;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings {
        stable_after: 10 * SECOND,
        give_up_after: None,
        attempts: None,
        heartbeat: None,
        is_remote: true,
        is_service: false,
    }
}

/// A machine, and a world that does what it says and checks that this makes sense.
struct World {
    machine: Machine,
    start: Instant,
    now: Instant,
    /// A try or a connection.
    has_connection: bool,
    is_up: bool,
    is_over: bool,
    /// Everything that was to be done.
    done: Vec<Action>,
    connects: Vec<Instant>,
}

impl World {
    fn new(settings: Settings, seed: u64) -> World {
        let now = Instant::now();
        let backoff = Backoff::with(SECOND, 30 * SECOND, Dice::seeded(seed));
        World {
            machine: Machine::new(settings, backoff, true, now),
            start: now,
            now,
            has_connection: false,
            is_up: false,
            is_over: false,
            done: Vec::new(),
            connects: Vec::new(),
        }
    }

    fn started(settings: Settings) -> World {
        let mut world = World::new(settings, 1);
        assert_eq!(world.tell(Event::Start), [Action::Connect]);
        world
    }

    fn up(settings: Settings) -> World {
        let mut world = World::started(settings);
        world.connect();
        world
    }

    fn connect(&mut self) {
        assert_eq!(self.tell(Event::Connected), []);
        assert_eq!(self.machine.phase(), Phase::Introducing);
        assert_eq!(self.tell(Event::Taken), []);
        assert!(matches!(self.machine.phase(), Phase::Up { .. }));
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let before = self.machine.phase();
        let mut out = Vec::new();
        self.machine.handle(event, self.now, &mut out);
        assert!(!self.is_over || out.is_empty(), "{out:?} after the end");
        if (event, before) == (Event::Taken, Phase::Introducing) {
            assert!(!self.is_up, "up twice");
            self.is_up = true;
        }
        for action in &out {
            match action {
                Action::Connect => {
                    assert!(!self.has_connection, "two connections");
                    self.has_connection = true;
                    self.connects.push(self.now);
                }
                Action::Cancel => {
                    assert!(self.has_connection && !self.is_up, "nothing to cancel");
                    self.has_connection = false;
                }
                Action::Down(fall) => {
                    assert_eq!(fall.was_up.is_some(), self.is_up);
                    (self.is_up, self.has_connection) = (false, false);
                }
                Action::GiveUp => self.is_over = true,
                Action::Check | Action::Beat => assert!(self.is_up),
            }
        }
        if event == Event::Close {
            (self.is_over, self.has_connection, self.is_up) = (true, false, false);
        }
        if let Phase::Offline | Phase::Searching | Phase::Over = self.machine.phase() {
            assert!(!self.is_up);
            if event == Event::Missing {
                self.has_connection = false;
            }
        }
        if let Phase::Waiting { until } = self.machine.phase() {
            assert!(until <= self.now + 30 * SECOND + BETWEEN_KICKS + AFTER_KICK);
            assert!(self.machine.timer().is_some());
            assert!(!self.has_connection);
        }
        self.done.extend(&out);
        out
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.tell(Event::Timer)
    }

    /// Moves the clock to the timer.
    fn timer(&mut self) -> Vec<Action> {
        self.now = self.machine.timer().expect("a timer");
        self.tell(Event::Timer)
    }

    fn fall(&mut self, event: Event) -> Fall {
        match self.tell(event)[..] {
            [Action::Down(fall)] => fall,
            ref other => panic!("{other:?}"),
        }
    }

    fn wait(&self) -> Duration {
        match self.machine.phase() {
            Phase::Waiting { until } => until - self.now,
            other => panic!("{other:?}"),
        }
    }
}

const FAILED: Event = Event::Failed { for_good: false };
const NETWORK: Event = Event::Kick(Kick::Network { has_address: true });
const NO_NETWORK: Event = Event::Kick(Kick::Network { has_address: false });

#[test]
fn connects_at_once() {
    let mut world = World::new(settings(), 1);
    assert_eq!((world.machine.phase(), world.machine.timer()), (Phase::Connecting, None));
    assert_eq!(world.tell(Event::Start), [Action::Connect]);
    assert_eq!(world.machine.phase(), Phase::Connecting);
}

#[test]
fn an_error_of_up_is_a_failure_like_any_other() {
    let mut world = World::started(settings());
    for attempt in 1..5 {
        world.tell(Event::Connected);
        // However final the program's error looks.
        let fall = world.fall(Event::Failed { for_good: true });
        assert_eq!((fall.was_up, fall.attempt), (None, attempt));
        world.timer();
    }
    assert!(world.fall(FAILED).next >= Some(8 * SECOND));
}

#[test]
fn what_fails_for_good_ends_it_at_once() {
    let mut world = World::started(settings());
    let fall = Fall { was_up: None, attempt: 1, next: None };
    assert_eq!(world.tell(Event::Failed { for_good: true }), [Action::Down(fall), Action::GiveUp]);
    assert_eq!((world.machine.phase(), world.machine.timer()), (Phase::Over, None));
}

#[test]
fn a_connection_that_lasted_begins_the_waits_anew_and_one_that_did_not_counts_as_failed() {
    let mut world = World::started(settings());
    for attempt in 1..6 {
        world.connect();
        world.now += 9 * SECOND;
        let fall = world.fall(Event::Ended);
        assert_eq!((fall.was_up, fall.attempt), (Some(9 * SECOND), attempt));
        world.timer();
    }
    assert!(world.machine.timer().is_none());
    world.connect();
    world.now += 10 * SECOND;
    let fall = world.fall(Event::Ended);
    assert_eq!((fall.was_up, fall.attempt), (Some(10 * SECOND), 0));
    assert!(world.wait() <= SECOND);
}

#[test]
fn nothing_is_planned_while_up_without_a_heartbeat() {
    let mut world = World::up(Settings { give_up_after: Some(SECOND), ..settings() });
    assert_eq!(world.machine.timer(), None);
    assert_eq!(world.pass(3600 * SECOND), []);
}

#[test]
fn the_heart_beats_while_up() {
    let mut world = World::up(Settings { heartbeat: Some(30 * SECOND), ..settings() });
    for beats in 1..4 {
        assert_eq!(world.machine.timer(), Some(world.start + beats * 30 * SECOND));
        assert_eq!(world.timer(), [Action::Beat]);
    }
    // And at once when the network has changed.
    world.now += SECOND;
    assert_eq!(world.tell(NETWORK), [Action::Check]);
    assert_eq!(world.machine.timer(), Some(world.now));
    assert_eq!(world.pass(Duration::ZERO), [Action::Beat]);
    assert_eq!(world.machine.timer(), Some(world.now + 30 * SECOND));
    world.fall(Event::Ended);
    assert!(world.wait() <= SECOND);
}

#[test]
fn a_kick_makes_a_connection_suspect_and_no_more() {
    for kick in [NETWORK, NO_NETWORK, Event::Kick(Kick::Resumed)] {
        let mut world = World::up(settings());
        assert_eq!(world.tell(kick), [Action::Check]);
        assert!(matches!(world.machine.phase(), Phase::Up { .. }));
    }
    let mut world = World::up(settings());
    assert_eq!(world.tell(Event::Kick(Kick::Retry)), []);
}

#[test]
fn a_kick_cuts_a_wait_short() {
    for kick in [NETWORK, Event::Kick(Kick::Resumed), Event::Kick(Kick::Retry)] {
        let mut world = World::started(settings());
        for _ in 0..8 {
            world.fall(FAILED);
            world.timer();
        }
        assert!(world.fall(FAILED).next >= Some(15 * SECOND));
        assert_eq!(world.tell(kick), []);
        assert!(world.wait() <= Duration::from_millis(250), "{kick:?}");
        world.timer();
        assert!(world.fall(FAILED).next <= Some(SECOND), "the waits begin anew");
    }
}

#[test]
fn there_is_at_most_one_kick_a_second() {
    let mut world = World::started(settings());
    for _ in 0..8 {
        world.fall(FAILED);
        world.timer();
    }
    world.fall(FAILED);
    world.now += 2 * SECOND;
    world.tell(NETWORK);
    world.timer();
    world.connects.clear();
    let end = world.now + 60 * SECOND;
    // The network changes all the time, and every try fails at once.
    while world.now < end {
        if world.machine.phase() == Phase::Connecting {
            world.fall(FAILED);
        }
        world.tell(NETWORK);
        world.pass(Duration::from_millis(10));
    }
    // Between two kicks there may be a first wait.
    assert!((55..=122).contains(&world.connects.len()), "{}", world.connects.len());
}

#[test]
fn a_kick_starts_a_try_anew() {
    for kick in [NETWORK, Event::Kick(Kick::Resumed), Event::Kick(Kick::Retry)] {
        let mut world = World::started(settings());
        world.fall(FAILED);
        world.timer();
        assert_eq!(world.tell(kick), [Action::Cancel, Action::Connect]);
        assert!(world.fall(FAILED).next <= Some(SECOND));
    }
    let mut world = World::started(settings());
    assert_eq!(world.tell(NO_NETWORK), [Action::Cancel]);
    assert_eq!(world.machine.phase(), Phase::Offline);
}

#[test]
fn nothing_disturbs_the_program_while_it_takes_the_connection_over() {
    let mut world = World::started(settings());
    world.tell(Event::Connected);
    for kick in [NO_NETWORK, NETWORK, Event::Kick(Kick::Retry), Event::Timer] {
        assert_eq!(world.tell(kick), []);
    }
    assert_eq!(world.machine.timer(), None);
    world.tell(Event::Taken);
    assert!(world.is_up);
}

#[test]
fn without_an_address_it_waits_for_one() {
    let mut world = World::started(settings());
    world.tell(NO_NETWORK);
    assert_eq!((world.machine.phase(), world.machine.timer()), (Phase::Offline, None));
    assert_eq!(world.tell(Event::Kick(Kick::Resumed)), []);
    assert_eq!(world.tell(NETWORK), [Action::Connect]);
    // A connection that ends for that is told of, and the next try waits for the network.
    world.connect();
    world.tell(NO_NETWORK);
    let fall = world.fall(Event::Ended);
    assert_eq!((fall.was_up, fall.next), (Some(Duration::ZERO), None));
    assert_eq!(world.machine.phase(), Phase::Offline);
    // The program knows better.
    assert_eq!(world.tell(Event::Kick(Kick::Retry)), [Action::Connect]);
    assert_eq!(world.fall(FAILED).next, None);
    assert_eq!(world.machine.phase(), Phase::Offline);
}

#[test]
fn a_wait_is_over_when_the_network_is() {
    let mut world = World::started(settings());
    world.fall(FAILED);
    world.tell(NO_NETWORK);
    assert_eq!(world.timer(), []);
    assert_eq!(world.machine.phase(), Phase::Offline);
}

#[test]
fn a_target_on_this_machine_needs_no_network() {
    let mut world = World::started(Settings { is_remote: false, ..settings() });
    assert_eq!(world.tell(NO_NETWORK), [Action::Cancel, Action::Connect]);
    world.fall(FAILED);
    assert_eq!(world.timer(), [Action::Connect]);
}

fn service() -> Settings {
    Settings { is_service: true, ..settings() }
}

#[test]
fn a_service_is_waited_for_and_not_tried() {
    let mut world = World::new(service(), 1);
    assert_eq!(world.machine.phase(), Phase::Searching);
    assert_eq!(world.tell(Event::Start), []);
    assert_eq!((world.machine.phase(), world.machine.timer()), (Phase::Searching, None));
    assert_eq!(world.tell(Event::Kick(Kick::Retry)), []);
    assert_eq!(world.tell(Event::Kick(Kick::Seen)), [Action::Connect]);
    // It has gone meanwhile.
    world.tell(Event::Kick(Kick::Gone));
    assert_eq!(world.tell(Event::Missing), []);
    assert_eq!(world.machine.phase(), Phase::Searching);
}

#[test]
fn a_service_that_is_there_and_is_not_found_is_a_failure() {
    let mut world = World::new(service(), 1);
    world.tell(Event::Start);
    world.tell(Event::Kick(Kick::Seen));
    assert!(world.fall(Event::Missing).next.is_some());
    assert_eq!(world.timer(), [Action::Connect]);
}

#[test]
fn a_service_that_this_machine_sees_needs_no_network() {
    let mut world = World::new(service(), 1);
    world.tell(Event::Start);
    world.tell(NO_NETWORK);
    assert_eq!(world.machine.phase(), Phase::Offline);
    assert_eq!(world.tell(Event::Kick(Kick::Seen)), [Action::Connect]);
}

#[test]
fn a_service_that_moves_while_up_is_noted() {
    let mut world = World::new(service(), 1);
    world.tell(Event::Start);
    world.tell(Event::Kick(Kick::Seen));
    for kick in [Kick::Moved, Kick::Seen] {
        world.connect();
        world.now += 60 * SECOND;
        assert_eq!(world.tell(Event::Kick(kick)), []);
        assert!(world.fall(Event::Ended).next <= Some(Duration::from_millis(100)));
        assert_eq!(world.timer(), [Action::Connect]);
    }
    world.connect();
    world.tell(Event::Kick(Kick::Gone));
    assert!(world.is_up, "it works");
    assert_eq!(world.fall(Event::Ended).next, None);
    assert_eq!(world.machine.phase(), Phase::Searching);
    assert_eq!(world.tell(Event::Kick(Kick::Seen)), [Action::Connect]);
}

#[test]
fn a_service_that_appears_or_moves_cuts_a_wait_short() {
    for kick in [Kick::Seen, Kick::Moved] {
        let mut world = World::new(service(), 1);
        world.tell(Event::Start);
        world.tell(Event::Kick(Kick::Seen));
        for _ in 0..6 {
            world.fall(FAILED);
            world.timer();
        }
        assert!(world.fall(FAILED).next >= Some(15 * SECOND));
        world.tell(Event::Kick(kick));
        assert!(world.wait() <= Duration::from_millis(250));
        // Without it, there is nothing to try.
        world.tell(Event::Kick(Kick::Gone));
        assert_eq!(world.timer(), []);
        assert_eq!(world.machine.phase(), Phase::Searching);
    }
}

#[test]
fn a_try_goes_on_when_others_of_the_name_come_and_is_started_anew_when_it_moves() {
    let mut world = World::new(service(), 1);
    world.tell(Event::Start);
    world.tell(Event::Kick(Kick::Seen));
    assert_eq!(world.tell(Event::Kick(Kick::Seen)), []);
    assert_eq!(world.tell(Event::Kick(Kick::Moved)), [Action::Cancel, Action::Connect]);
    // But not all the time.
    assert_eq!(world.tell(Event::Kick(Kick::Moved)), []);
}

#[test]
fn gives_up_after_so_many_attempts() {
    let mut world = World::started(Settings { attempts: Some(3), ..settings() });
    for _ in 0..2 {
        world.fall(FAILED);
        world.timer();
    }
    let fall = Fall { was_up: None, attempt: 3, next: None };
    assert_eq!(world.tell(FAILED), [Action::Down(fall), Action::GiveUp]);
    // The end of a connection that lasted is no failed try, and a kick does not begin the count anew.
    let mut world = World::up(Settings { attempts: Some(2), ..settings() });
    world.now += 60 * SECOND;
    assert_eq!(world.fall(Event::Ended).attempt, 0);
    world.timer();
    world.fall(FAILED);
    world.tell(NETWORK);
    world.timer();
    assert_eq!(world.tell(FAILED).last(), Some(&Action::GiveUp));
}

#[test]
fn gives_up_after_a_time_in_whatever_state() {
    let limited = Settings { give_up_after: Some(20 * SECOND), ..settings() };
    let mut world = World::started(limited.clone());
    let fall = Fall { was_up: None, attempt: 1, next: None };
    assert_eq!(world.timer(), [Action::Cancel, Action::Down(fall), Action::GiveUp]);
    assert_eq!(world.now, world.start + 20 * SECOND);

    let mut world = World::started(limited.clone());
    while !world.is_over {
        let fall = world.fall(FAILED);
        let until = world.now + fall.next.unwrap_or_default();
        world.timer();
        assert_eq!(fall.next.is_none(), world.is_over);
        assert!(world.is_over || world.now == until);
    }
    assert_eq!(world.now, world.start + 20 * SECOND, "not before, however long the wait");

    let mut world = World::started(limited.clone());
    world.tell(NO_NETWORK);
    assert_eq!(world.timer(), [Action::GiveUp]);
    let mut world = World::new(Settings { is_service: true, ..limited.clone() }, 1);
    world.tell(Event::Start);
    assert_eq!(world.timer(), [Action::GiveUp]);

    // From the end of the last connection that lasted.
    let mut world = World::up(limited);
    world.now += 60 * SECOND;
    world.fall(Event::Ended);
    let end = world.now;
    world.timer();
    world.timer();
    assert_eq!((world.is_over, world.now), (true, end + 20 * SECOND));
}

#[test]
fn closes_in_any_state() {
    let phases: [fn(&mut World); 6] = [
        |_| {},
        |world| drop(world.tell(Event::Connected)),
        |world| world.connect(),
        |world| drop(world.tell(FAILED)),
        |world| drop(world.tell(NO_NETWORK)),
        |world| drop(world.tell(Event::Failed { for_good: true })),
    ];
    for (index, phase) in phases.into_iter().enumerate() {
        let mut world = World::started(settings());
        phase(&mut world);
        let cancelled = if index == 0 { vec![Action::Cancel] } else { vec![] };
        let mut out = Vec::new();
        world.machine.handle(Event::Close, world.now, &mut out);
        assert_eq!(out, cancelled);
        (world.is_over, world.is_up) = (true, false);
        assert_eq!((world.machine.phase(), world.machine.timer()), (Phase::Over, None));
        for event in [Event::Start, Event::Connected, Event::Taken, FAILED, Event::Ended, NETWORK, Event::Timer] {
            assert_eq!(world.tell(event), []);
        }
    }
}

#[test]
fn a_server_that_is_away_is_asked_every_fifteen_to_thirty_seconds() {
    for seed in 0..200 {
        let mut world = World::new(settings(), seed);
        world.tell(Event::Start);
        while world.now < world.start + 600 * SECOND {
            world.fall(FAILED);
            world.timer();
        }
        let late: Vec<_> = world.connects.iter().filter(|time| **time > world.start + 60 * SECOND).collect();
        assert!(late.len() >= 18);
        for pair in late.windows(2) {
            let wait = *pair[1] - *pair[0];
            assert!(wait >= 15 * SECOND && wait <= 30 * SECOND, "{wait:?}");
        }
    }
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        Just(Event::Connected),
        Just(Event::Taken),
        Just(FAILED),
        Just(Event::Missing),
        Just(Event::Ended),
        Just(Event::Timer),
        Just(NETWORK),
        Just(NO_NETWORK),
        Just(Event::Kick(Kick::Resumed)),
        Just(Event::Kick(Kick::Seen)),
        Just(Event::Kick(Kick::Moved)),
        Just(Event::Kick(Kick::Gone)),
        Just(Event::Kick(Kick::Retry)),
        prop_oneof![20 => Just(Event::Timer), 1 => Just(Event::Close), 1 => Just(Event::Failed { for_good: true })],
    ]
}

proptest! {
    #[test]
    fn any_order_of_events_keeps_the_grammar(
        seed: u64,
        is_service: bool,
        is_remote: bool,
        heartbeat: bool,
        attempts in proptest::option::of(1_u32..20),
        limit in proptest::option::of(1_u64..200),
        steps in proptest::collection::vec((events(), 0_u64..20_000), 1..200),
    ) {
        let settings = Settings {
            is_service,
            is_remote,
            heartbeat: heartbeat.then_some(7 * SECOND),
            attempts,
            give_up_after: limit.map(Duration::from_secs),
            ..settings()
        };
        let mut world = World::new(settings, seed);
        world.tell(Event::Start);
        for (event, millis) in steps {
            // The timer comes when it is due, whatever else happens.
            let next = world.now + Duration::from_millis(millis);
            while let Some(due) = world.machine.timer().filter(|due| *due <= next) {
                world.now = due.max(world.now);
                world.tell(Event::Timer);
                let later = world.machine.timer();
                prop_assert!(later != Some(due) || due > world.now, "it is due for ever");
            }
            world.now = next;
            world.tell(event);
            let has_connection = matches!(
                world.machine.phase(),
                Phase::Connecting | Phase::Introducing | Phase::Up { .. }
            );
            prop_assert_eq!(has_connection, world.has_connection);
        }
    }
}
