//! The queue of the free tier: which Jobs wait, which run, whether there is room, and whom to touch. Pure: news and the time
//! come in, a decision goes out.
//!
//! Kubernetes' Job controller tries a pod that the quota refused again after ever longer pauses, each Job by its own clock.
//! A change of the Job makes it try at once, so that a touch gives a free slot to the oldest. A touch is a hint and no more:
//! without it the controller's own retry starts the Job.

pub mod capacity;
pub mod controller;

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::kube::{JobState, Watched};
use crate::queue::capacity::Room;

/// The annotation of a touch: when it was, RFC 3339.
pub const NUDGED: &str = "img-classification/nudged";

/// A Job that is seen for the first time is about to be started by the controller itself.
const SETTLING: Duration = Duration::from_secs(1);

/// For so long a touched Job has its room to itself: the controller comes to it after a second, and a busy API server may
/// take another two.
const RESERVED: Duration = Duration::from_secs(5);

/// Room that is taken while a touched Job has it to itself was taken by that Job, of which the watch tells within this time,
/// or by another that the controller happened to try first.
const TELLING: Duration = Duration::from_secs(1);

/// Of a Job's start the watch of the Jobs may tell so much sooner than that of the quotas.
const LAG: Duration = Duration::from_millis(500);

/// Pause after a touch that did not help, though there was room: doubled up to the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// Pause after a touch that failed, and after one that came too late: by then the watch has told of the change.
const PAUSE_FAILED: Duration = Duration::from_secs(5);
const PAUSE_LATE: Duration = Duration::from_secs(1);

/// Pause of all touches after a refusal for want of a permission: a person has to give it.
const PAUSE_FORBIDDEN: Duration = Duration::from_secs(60);

/// What was known is shown for so long after the watch broke: an API server restarts within it.
const STALE: Duration = Duration::from_secs(10);

/// Most Jobs that are kept, of 300 bytes each; the quota of k8s/ allows 300. Those that come when there are so many are
/// left to the controller.
const JOBS_MOST: usize = 2000;

/// Everything that is known.
#[derive(Default)]
pub struct Queue {
    /// In the order of the queue.
    jobs: Vec<Entry>,
    quotas: Vec<(String, Room)>,
    /// How it stands with what is told of Jobs, and of quotas.
    pub of_jobs: Feed,
    pub of_quotas: Feed,
    /// Counts the Jobs that have come.
    count: u64,
    /// No touch before this.
    hold: Option<Instant>,
}

/// How it stands with what is told.
#[derive(Default)]
pub struct Feed {
    /// Counts the lists.
    lists: u64,
    is_known: bool,
    /// Since when nothing is told, and whether that is for want of a permission.
    failing: Option<(Instant, bool)>,
}

/// A Job that waits or runs.
struct Entry {
    name: String,
    created: String,
    version: String,
    /// Its place among Jobs of the same second.
    number: u64,
    /// The last list that had it.
    list: u64,
    need: Room,
    /// Since when it runs, if it does.
    running: Option<String>,
    turn: Turn,
}

/// Whether it is a Job's turn.
#[derive(Clone, Copy)]
struct Turn {
    /// Until then the controller is about to start it by itself; nobody behind it is touched in its place.
    settled: Instant,
    /// Until then it makes way.
    not_before: Instant,
    /// Until when the Job has the room to itself that it was touched for.
    reserved: Option<Instant>,
    /// That room was taken meanwhile.
    is_taken: bool,
    /// Touches that did not help.
    vain: u32,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Touch this Job if it is still of this version.
    Touch { name: String, version: String },
    /// Nothing before this time, if nothing is told before.
    Wait(Option<Instant>),
}

/// What became of a touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    Done,
    /// The Job had changed, or was gone.
    Late,
    Failed,
    Forbidden,
}

/// Why the queue cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Not yet listed.
    Starting,
    /// The server may not watch.
    Forbidden,
    /// Kubernetes tells nothing.
    Failing,
}

impl Feed {
    /// From now on it is told; whether it was not before.
    pub fn live(&mut self) -> bool {
        self.failing.take().is_some()
    }

    /// For now nothing is told; whether it was before.
    pub fn failed(&mut self, forbidden: bool, now: Instant) -> bool {
        let since = self.failing.map_or(now, |(since, _)| since);
        self.failing.replace((since, forbidden)).is_none()
    }

    fn is_good(&self) -> bool {
        self.is_known && self.failing.is_none()
    }
}

impl Queue {
    /// A list of the Jobs begins.
    pub fn list_jobs(&mut self) {
        self.of_jobs.lists += 1;
    }

    /// The list of the Jobs is whole: what it did not have is gone.
    pub fn jobs_listed(&mut self) {
        let list = self.of_jobs.lists;
        self.jobs.retain(|entry| entry.list == list);
        self.of_jobs.is_known = true;
    }

    /// A Job is there, and like this; whether it is kept.
    pub fn put_job(&mut self, job: Watched, now: Instant, clock: SystemTime) -> bool {
        let state = job.state();
        if state == JobState::Finished {
            self.remove_job(&job.name);
            return true;
        }
        let at = self.jobs.iter().position(|entry| entry.name == job.name);
        if self.jobs.len() >= JOBS_MOST && at.is_none() {
            // Those of an earlier list may be gone.
            self.jobs.retain(|entry| entry.list == self.of_jobs.lists);
            if self.jobs.len() >= JOBS_MOST {
                return false;
            }
        }
        let (need, list, fresh) = (Room::need(&job), self.of_jobs.lists, self.count);
        self.count += 1;
        let Watched { name, version, created, annotations, started, .. } = job;
        let old = at.map(|at| self.jobs.remove(at)).filter(|old| old.created == created);
        let running = (state == JobState::Running).then(|| match &old {
            Some(Entry { running: Some(since), .. }) => since.clone(),
            Some(_) => humantime::format_rfc3339_seconds(clock).to_string(),
            None => annotations.get(NUDGED).map(str::to_owned).or(started).unwrap_or_else(|| created.clone()),
        });
        let anew = Turn { settled: now + SETTLING, not_before: now, reserved: None, is_taken: false, vain: 0 };
        let turn = match (&old, &running) {
            // Nothing has changed about that.
            (Some(old), _) if old.is_waiting() == running.is_none() => old.turn,
            // It has begun to run.
            (Some(old), Some(_)) => Turn { reserved: old.turn.reserved.map(|_| now + LAG), ..anew },
            _ => anew,
        };
        let number = old.map_or(fresh, |old| old.number);
        let entry = Entry { name, created, version, number, list, need, running, turn };
        let at = self.jobs.partition_point(|other| other.place() < entry.place());
        self.jobs.insert(at, entry);
        true
    }

    /// A Job is gone.
    pub fn remove_job(&mut self, name: &str) {
        self.jobs.retain(|entry| entry.name != name);
    }

    /// A list of the quotas begins.
    pub fn list_quotas(&mut self) {
        self.quotas.clear();
        self.of_quotas.is_known = false;
    }

    /// The list of the quotas is whole.
    pub fn quotas_listed(&mut self) {
        self.of_quotas.is_known = true;
    }

    /// A quota is there, and like this.
    pub fn put_quota(&mut self, quota: &Watched) {
        self.remove_quota(&quota.name);
        self.quotas.push((quota.name.clone(), Room::left(quota)));
    }

    /// A quota is gone.
    pub fn remove_quota(&mut self, name: &str) {
        self.quotas.retain(|(known, _)| known != name);
    }

    /// Whom to touch now; a touch that is given out counts as made until [`touched`](Self::touched) says otherwise.
    pub fn step(&mut self, now: Instant) -> Step {
        // Without a limit there is nothing to wait for.
        let room = self.quotas.iter().fold(Room::ENDLESS, |room, (_, left)| room.least(*left));
        if room == Room::ENDLESS || !self.of_jobs.is_good() || !self.of_quotas.is_good() {
            return Step::Wait(None);
        }
        if self.hold.is_some_and(|hold| hold > now) {
            return Step::Wait(self.hold);
        }
        self.jobs.iter_mut().for_each(|entry| entry.expire(&room, now));
        let reserved = self.jobs.iter().filter(|entry| entry.turn.reserved.is_some());
        let room = reserved.fold(room, |room, entry| room.minus(&entry.need));
        let ready = |entry: &Entry| {
            let Turn { not_before, reserved, .. } = entry.turn;
            entry.is_waiting() && reserved.is_none() && not_before <= now && room.holds(&entry.need)
        };
        if let Some(entry) = self.jobs.iter_mut().find(|entry| ready(entry)) {
            if entry.turn.settled > now {
                return Step::Wait(Some(entry.turn.settled));
            }
            entry.turn = Turn { reserved: Some(now + RESERVED), is_taken: false, ..entry.turn };
            return Step::Touch { name: entry.name.clone(), version: entry.version.clone() };
        }
        let due = |entry: &Entry| {
            entry.turn.reserved.or_else(|| entry.is_waiting().then_some(entry.turn.not_before.max(entry.turn.settled)))
        };
        let dues = self.jobs.iter().filter_map(due);
        Step::Wait(dues.filter(|due| *due > now).min())
    }

    /// What became of the last touch of this Job.
    pub fn touched(&mut self, name: &str, outcome: Touched, now: Instant) {
        let pause = match outcome {
            Touched::Done => return,
            Touched::Late => PAUSE_LATE,
            Touched::Failed => PAUSE_FAILED,
            Touched::Forbidden => {
                self.hold = Some(now + PAUSE_FORBIDDEN);
                PAUSE_FORBIDDEN
            }
        };
        if let Some(entry) = self.jobs.iter_mut().find(|entry| entry.name == name) {
            entry.turn = Turn { reserved: None, not_before: now + pause, ..entry.turn };
        }
    }

    /// Who runs and who waits, each from the oldest on, as GET /queue answers it.
    ///
    /// # Errors
    /// Nobody knows.
    pub fn show(&self, now: Instant) -> Result<Value, Unknown> {
        match self.of_jobs.failing {
            Some((_, true)) => return Err(Unknown::Forbidden),
            Some((since, _)) if !self.of_jobs.is_known || now.duration_since(since) > STALE => {
                return Err(Unknown::Failing);
            }
            _ if !self.of_jobs.is_known => return Err(Unknown::Starting),
            _ => {}
        }
        let (mut running, mut waiting) = (Vec::new(), Vec::new());
        for Entry { name, created, running: since, .. } in &self.jobs {
            match since {
                Some(since) => running.push(json!({ "job": name, "since": since })),
                None => waiting.push(json!({ "job": name, "position": waiting.len() + 1, "since": created })),
            }
        }
        Ok(json!({ "running": running, "waiting": waiting }))
    }
}

impl Entry {
    fn is_waiting(&self) -> bool {
        self.running.is_none()
    }

    /// The order of the queue: Kubernetes' times are whole seconds.
    fn place(&self) -> (&str, u64) {
        (&self.created, self.number)
    }

    /// Gives up what a touch has reserved, in time. If the room was taken, this one is the next all the same; if not, it is
    /// the Job that does not start.
    fn expire(&mut self, room: &Room, now: Instant) {
        let is_waiting = self.is_waiting();
        let Turn { not_before, reserved, is_taken, vain, .. } = &mut self.turn;
        let Some(until) = reserved else { return };
        if is_waiting && !*is_taken && !room.holds(&self.need) {
            *is_taken = true;
            *until = (*until).min(now + TELLING);
        }
        if *until <= now {
            *reserved = None;
            if is_waiting && !*is_taken {
                *not_before = now + PAUSE_FIRST.saturating_mul(1 << (*vain).min(8)).min(PAUSE_MOST);
                *vain += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with a clock of its own, in milliseconds.
    struct Play {
        queue: Queue,
        start: Instant,
        now: u64,
    }

    fn read(object: &Value) -> Watched {
        Watched::parse(&object.to_string()).expect("JSON")
    }

    impl Play {
        /// All is listed; the quota is of 2 CPU.
        fn new() -> Self {
            let mut play = Self { queue: Queue::default(), start: Instant::now(), now: 0 };
            play.queue.list_jobs();
            play.queue.jobs_listed();
            play.queue.list_quotas();
            play.queue.quotas_listed();
            play.used("0");
            play
        }

        fn time(&self) -> Instant {
            self.start + Duration::from_millis(self.now)
        }

        fn used(&mut self, cpu: &str) {
            let status = json!({"hard": {"requests.cpu": "2", "services": "0"}, "used": {"requests.cpu": cpu}});
            self.queue.put_quota(&read(&json!({"metadata": {"name": "q"}, "status": status})));
        }

        fn job(&mut self, name: &str, second: u32, state: JobState) -> bool {
            let status = match state {
                JobState::Waiting => json!({}),
                JobState::Running => json!({"active": 1, "startTime": "2026-01-01T00:01:00Z"}),
                JobState::Finished => json!({"succeeded": 1}),
            };
            let created = format!("2026-01-01T00:00:{second:02}Z");
            let metadata = json!({"name": name, "resourceVersion": "7", "creationTimestamp": created});
            let containers = json!([{"resources": {"requests": {"cpu": "900m"}}}]);
            let spec = json!({"template": {"spec": {"containers": containers}}});
            let job = read(&json!({"metadata": metadata, "spec": spec, "status": status}));
            self.queue.put_job(job, self.time(), SystemTime::UNIX_EPOCH)
        }

        fn wait(&mut self, names: &[&str]) {
            assert!(names.iter().all(|name| self.job(name, 0, JobState::Waiting)));
        }

        /// Who is touched at that time, one after the other.
        fn at(&mut self, now: u64) -> Vec<String> {
            self.now = now;
            let mut touched = Vec::new();
            while let Step::Touch { name, .. } = self.queue.step(self.time()) {
                touched.push(name);
            }
            touched
        }

        /// The milliseconds at which to look again.
        fn due(&mut self) -> Option<u128> {
            match self.queue.step(self.time()) {
                Step::Wait(due) => due.map(|due| due.duration_since(self.start).as_millis()),
                Step::Touch { name, .. } => panic!("{name}"),
            }
        }

        fn shown(&self) -> (Vec<String>, Vec<String>) {
            let queue = self.queue.show(self.time()).expect("known");
            let names = |key: &str| {
                let jobs = queue[key].as_array().into_iter().flatten();
                jobs.map(|job| job["job"].as_str().expect("a name").to_owned()).collect()
            };
            (names("running"), names("waiting"))
        }
    }

    const NOBODY: [&str; 0] = [];

    #[test]
    fn the_oldest_is_touched_by_creation_and_then_by_arrival() {
        let mut play = Play::new();
        play.used("2");
        for (name, second) in [("c", 2), ("z", 1), ("b", 1), ("a", 3)] {
            play.job(name, second, JobState::Waiting);
        }
        assert_eq!(play.shown().1, ["z", "b", "c", "a"]);
        assert_eq!(play.at(5000), NOBODY, "no room");
        play.used("1100m");
        assert_eq!(play.at(5000), ["z"], "room for one");
        play.job("z", 1, JobState::Running);
        play.used("0");
        assert_eq!(play.at(5001), ["b"], "the room of z may not be counted yet");
        assert_eq!(play.at(5500), ["c"], "now it is");
        assert_eq!(play.shown(), (vec!["z".into()], vec!["b".into(), "c".into(), "a".into()]));
    }

    #[test]
    fn a_new_job_is_left_to_the_controller_for_a_second() {
        let mut play = Play::new();
        play.wait(&["a"]);
        assert_eq!(play.at(999), NOBODY);
        assert_eq!(play.due(), Some(1000));
        assert_eq!(play.at(1000), ["a"]);
        assert_eq!(play.at(1001), NOBODY, "once");
        let mut play = Play::new();
        play.used("1");
        play.job("younger", 2, JobState::Waiting);
        play.now = 1;
        play.job("older", 1, JobState::Waiting);
        assert_eq!(play.at(1000), NOBODY, "the older one goes first, though it was seen later");
        assert_eq!(play.at(1001), ["older"]);
    }

    #[test]
    fn a_job_that_does_not_start_makes_way_and_is_touched_again_after_ever_longer_pauses() {
        let mut play = Play::new();
        play.used("1");
        play.wait(&["a", "b"]);
        assert_eq!(play.at(1000), ["a"]);
        assert_eq!(play.due(), Some(6000));
        assert_eq!(play.at(5999), NOBODY, "its room is reserved");
        assert_eq!(play.at(6000), ["b"]);
        play.queue.remove_job("b");
        let touches: Vec<u64> = (6001..300_000).step_by(100).filter(|now| !play.at(*now).is_empty()).collect();
        let pauses: Vec<u64> = touches.windows(2).map(|pair| (pair[1] - pair[0]).div_euclid(1000)).collect();
        assert_eq!(touches[0].div_euclid(1000), 11);
        assert_eq!(pauses, [15, 25, 45, 65, 65, 65], "5 s of reservation and 10, 20, 40, 60 of pause");
    }

    #[test]
    fn a_job_whose_room_another_one_took_is_the_next_all_the_same() {
        let mut play = Play::new();
        play.used("1");
        play.wait(&["a", "b"]);
        assert_eq!(play.at(2000), ["a"]);
        play.used("1900m");
        assert_eq!(play.at(2010), NOBODY);
        play.used("1");
        assert_eq!(play.at(2100), NOBODY, "it may have been its own pod");
        assert_eq!(play.due(), Some(3010));
        assert_eq!(play.at(3010), ["a"]);
    }

    #[test]
    fn a_touch_that_fails_leaves_the_room_and_is_made_again_after_a_pause() {
        for (outcome, pause) in [(Touched::Late, 1000), (Touched::Failed, 5000), (Touched::Forbidden, 60_000)] {
            let mut play = Play::new();
            play.used("1");
            play.wait(&["a"]);
            assert_eq!(play.at(1000), ["a"]);
            play.queue.touched("a", outcome, play.time());
            assert_eq!(play.at(1000 + pause - 1), NOBODY, "{outcome:?}");
            assert_eq!(play.at(1000 + pause), ["a"], "{outcome:?}");
        }
    }

    #[test]
    fn nobody_is_touched_on_hearsay() {
        let mut play = Play::new();
        play.wait(&["a"]);
        play.queue.of_quotas.failed(false, play.time());
        assert_eq!(play.at(2000), NOBODY, "the quotas are not told of");
        play.queue.of_quotas.live();
        play.queue.of_jobs.failed(false, play.time());
        assert_eq!(play.at(2000), NOBODY, "the Jobs are not told of");
        play.queue.of_jobs.live();
        play.queue.list_quotas();
        assert_eq!(play.at(2000), NOBODY, "half a list of quotas");
        play.queue.quotas_listed();
        assert_eq!(play.at(2000), NOBODY, "without a quota nothing waits for one");
        let uncounted = json!({"metadata": {"name": "q"}, "status": {"hard": {"requests.cpu": "2"}}});
        play.queue.put_quota(&read(&uncounted));
        assert_eq!(play.at(2000), NOBODY, "nobody knows what is used");
        play.used("0");
        assert_eq!(play.at(2000), ["a"]);
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone_and_what_it_has_keeps_its_place() {
        let mut play = Play::new();
        play.wait(&["c", "b", "a"]);
        play.queue.list_jobs();
        play.wait(&["a", "c"]);
        assert_eq!(play.shown().1, ["c", "b", "a"], "until the list is whole");
        play.queue.jobs_listed();
        assert_eq!(play.shown().1, ["c", "a"]);
        play.job("c", 0, JobState::Finished);
        assert_eq!(play.shown().1, ["a"]);
    }

    #[test]
    fn the_queue_is_shown_only_while_it_is_known() {
        let mut play = Play::new();
        assert_eq!(Queue::default().show(play.time()), Err(Unknown::Starting));
        play.queue.of_jobs.failed(false, play.time());
        play.now = 10_000;
        assert!(play.queue.show(play.time()).is_ok(), "an API server that starts anew");
        play.queue.of_jobs.failed(false, play.time());
        play.now = 10_001;
        assert_eq!(play.queue.show(play.time()), Err(Unknown::Failing));
        play.queue.of_jobs.failed(true, play.time());
        assert_eq!(play.queue.show(play.time()), Err(Unknown::Forbidden));
        assert!(play.queue.of_jobs.live());
        assert!(play.queue.show(play.time()).is_ok());
    }

    #[test]
    fn no_more_than_so_many_jobs_are_kept() {
        let mut play = Play::new();
        assert!((0..JOBS_MOST).all(|number| play.job(&number.to_string(), 0, JobState::Waiting)));
        assert!(!play.job("more", 0, JobState::Waiting));
        assert!(play.job("0", 0, JobState::Finished) && play.job("more", 0, JobState::Waiting));
    }
}
