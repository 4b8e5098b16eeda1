//! Kills of training runs at random moments: what several subjects use to test that a resumed run
//! ends like an undisturbed one.

use std::time::Duration;

use crate::command::Outcome;
use crate::command::Place;
use crate::command::outcome;
use maqam::seed::Key;

/// After so many kills a run may go to its end, however slow the machine is at that time.
const MOST_KILLS: usize = 12;

/// Names and contents of files of a run.
pub type Files = Vec<(String, Vec<u8>)>;

/// Contents of files of the run `small`.
pub fn files(place: &Place, names: &[&str]) -> Files {
    let read = |name: &&str| {
        let bytes = place.bytes(&format!("runs/small/{name}"));
        ((*name).to_owned(), bytes)
    };
    names.iter().map(read).collect()
}

/// Fails the test if a file differs from the one of an undisturbed run.
pub fn assert_same_files(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)], when: &str) {
    assert_eq!(found.len(), expected.len());
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{when}: {name} differs");
    }
}

/// Trains a new run of `begin`, killed and resumed until it ends. `took` is the time of an
/// undisturbed run. Returns the run, the number of kills, at least one, and the last outcome.
pub fn killed_run(
    begin: &dyn Fn() -> Place,
    took: Duration,
    delays: Key,
) -> (Place, usize, Outcome) {
    // The machine may be faster now than it was for the undisturbed run.
    let mut within = took;
    loop {
        let place = begin();
        let (kills, last) = killed(&place, within, delays);
        if kills > 0 {
            return (place, kills, last);
        }
        assert!(
            within >= Duration::from_millis(1),
            "a run was too fast to kill"
        );
        within /= 2;
    }
}

/// Kills a run at moments within `within`, and resumes it until it ends.
fn killed(place: &Place, within: Duration, delays: Key) -> (usize, Outcome) {
    for kills in 0usize.. {
        let mut child = place
            .command(&["train", "recipe.yaml", "--allow-leakage", "--resume"])
            .spawn()
            .unwrap();
        if kills < MOST_KILLS {
            std::thread::sleep(within.mul_f64(0.1 + 0.6 * delays.uniform(kills as u64)));
            child.kill().unwrap();
        }
        let ended = outcome(child.wait_with_output().unwrap());
        if ended.code == Some(0) {
            return (kills, ended);
        }
        assert_eq!(ended.code, None, "killed, not failed: {}", ended.stderr);
    }
    unreachable!("the loop has no end")
}
