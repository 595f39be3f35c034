//! The times of tries.

use super::*;

#[test]
fn waits_longer_after_each_failure() {
    let mut world = World::started(settings());
    for (attempt, (least, most)) in
        [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (15, 30), (15, 30)].into_iter().enumerate()
    {
        let fall = world.fall(FAILED);
        assert_eq!((fall.was_up, fall.attempt), (None, attempt as u32 + 1));
        assert_eq!(fall.next, Some(world.wait()));
        assert!(world.wait() >= least * SECOND && world.wait() <= most * SECOND, "{:?}", world.wait());
        assert_eq!(world.timer(), [Action::Connect]);
        assert_eq!(world.machine.phase(), Phase::Connecting);
    }
}

#[test]
fn a_server_that_restarts_is_found_soon() {
    for seed in 0..1000 {
        let mut world = World::new(settings(), seed);
        world.tell(Event::Start);
        world.connect();
        let ended = world.now;
        world.fall(Event::Ended);
        let mut before = world.now;
        // Whenever it listens within five seconds, there is a try within two seconds.
        while before < ended + 5 * SECOND {
            world.timer();
            assert!(world.now - before <= 2 * SECOND, "seed {seed}: {:?}", world.now - before);
            before = world.now;
            world.fall(FAILED);
        }
        // Then the waits grow.
        for least in [2, 4, 8, 15, 15] {
            assert!(
                world.wait() >= least * SECOND && world.wait() <= 2 * least * SECOND,
                "seed {seed}: {:?}",
                world.wait()
            );
            world.timer();
            world.fall(FAILED);
        }
    }
}

#[test]
fn a_server_that_accepts_and_drops_is_not_stormed() {
    for seed in 0..1000 {
        let mut world = World::new(settings(), seed);
        world.tell(Event::Start);
        while world.now < world.start + 60 * SECOND {
            world.connect();
            world.fall(Event::Ended);
            world.timer();
        }
        let count = world.connects.iter().filter(|time| **time < world.start + 60 * SECOND).count();
        assert!(count <= 8, "{count} in a minute with the seed {seed}");
    }
}

#[test]
fn two_hundred_links_do_not_come_back_at_once() {
    let first_wait = |seed| {
        let mut world = World::new(settings(), seed);
        world.tell(Event::Start);
        world.connect();
        world.now += 60 * SECOND;
        world.fall(Event::Ended);
        world.wait()
    };
    let waits: Vec<Duration> = (0..200).map(first_wait).collect();
    for wait in &waits {
        let together = waits.iter().filter(|other| **other >= *wait && **other < *wait + Duration::from_millis(100));
        assert!(together.count() <= 40);
    }
}
