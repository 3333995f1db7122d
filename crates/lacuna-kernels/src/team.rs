//! A few threads that wait for short work without sleeping between one piece and the next.
//!
//! A decoding pass is hundreds of products of some ten microseconds each. Waking a sleeping thread
//! takes longer than that, so the helpers here watch for the next product for a while before they
//! sleep, and a caller never waits for a helper that has not come: it does the work itself.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a helper watches for more work before it sleeps.
const WATCH: Duration = Duration::from_micros(200);

/// Runs `task` once for each number below `tasks`, on this thread and as many helpers as the
/// current rayon pool has further threads. If the helpers are busy for someone else, this thread
/// does everything.
pub(crate) fn run(tasks: usize, task: impl Fn(usize) + Sync) {
    let helpers = (rayon::current_num_threads() - 1).min(tasks.saturating_sub(1));
    let team = (helpers > 0).then(Team::get).flatten();
    match team.and_then(|team| Some((team, team.caller.try_lock().ok()?))) {
        Some((team, _only_caller)) => team.run(tasks, helpers, &task),
        None => (0..tasks).for_each(task),
    }
}

/// Work on its caller's stack.
///
/// The numbers are dealt out in runs, one for each who may work, so that neighbouring tasks (which
/// mostly read neighbouring memory) stay on one core; who is done with a run helps with the others.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    runs: Vec<Run>,
    /// Helpers that have come.
    helpers: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Numbers still to be taken, on a cache line of its own.
#[repr(align(64))]
struct Run {
    next: AtomicUsize,
    end: usize,
}

impl<'a> Job<'a> {
    fn new(tasks: usize, workers: usize, task: &'a (dyn Fn(usize) + Sync)) -> Self {
        let run = |i: usize| {
            let next = AtomicUsize::new(i * tasks / workers);
            Run { next, end: (i + 1) * tasks / workers }
        };
        let runs = (0..workers).map(run).collect();
        Self { task, runs, helpers: AtomicUsize::new(0), panic: Mutex::new(None) }
    }

    /// Begins with run `own`.
    fn work(&self, own: usize) {
        let (before, from_own) = self.runs.split_at(own);
        for run in from_own.iter().chain(before) {
            loop {
                let number = run.next.fetch_add(1, Relaxed);
                if number >= run.end {
                    break;
                }
                (self.task)(number);
            }
        }
    }

    /// [`Self::work`] as a helper: if there is a run left, and a panic is kept for the caller.
    fn help(&self) {
        let own = self.helpers.fetch_add(1, Relaxed) + 1;
        if own >= self.runs.len() {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(own))) {
            self.runs.iter().for_each(|run| run.next.store(run.end, Relaxed));
            *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        }
    }
}

struct Team {
    /// Held by the one caller who has the helpers.
    caller: Mutex<()>,
    /// The job under way, or null.
    job: AtomicPtr<Job<'static>>,
    /// Jobs so far: what watching helpers watch.
    jobs: AtomicUsize,
    /// Helpers that may hold the job's address.
    inside: AtomicUsize,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

impl Team {
    /// The process's team; none if not a single helper could be started.
    fn get() -> Option<&'static Self> {
        static TEAM: OnceLock<Option<&'static Team>> = OnceLock::new();
        *TEAM.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
            let helpers = cores.max(rayon::current_num_threads()) - 1;
            let team: &'static Team = Box::leak(Box::new(Team {
                caller: Mutex::new(()),
                job: AtomicPtr::new(ptr::null_mut()),
                jobs: AtomicUsize::new(0),
                inside: AtomicUsize::new(0),
                asleep: AtomicUsize::new(0),
                bed: Mutex::new(()),
                bell: Condvar::new(),
            }));
            let start = |number: usize| {
                let thread = std::thread::Builder::new().name(format!("lacuna-{number}"));
                thread.spawn(move || team.serve()).is_ok()
            };
            (0..helpers).filter(|number| start(*number)).count().gt(&0).then_some(team)
        })
    }

    fn run(&self, tasks: usize, helpers: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job::new(tasks, helpers + 1, task);
        {
            // However this block is left, no helper is with the job afterwards.
            let _closed = Closed(self);
            self.job.store((&raw const job).cast_mut().cast(), SeqCst);
            self.jobs.fetch_add(1, SeqCst);
            if self.asleep.load(SeqCst) > 0 {
                let _bed = self.bed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.bell.notify_all();
            }
            job.work(0);
        }
        let panic = job.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// A helper's life.
    fn serve(&self) {
        let mut seen = 0;
        loop {
            seen = self.next_job(seen);
            self.inside.fetch_add(1, SeqCst);
            let job = self.job.load(SeqCst);
            if !job.is_null() {
                // SAFETY: `inside` was raised before the address was read, and a caller takes the
                // address away and then waits for `inside` to be 0 before its job ends.
                unsafe { &*job }.help();
            }
            self.inside.fetch_sub(1, Release);
        }
    }

    /// Waits until there has been a job after number `seen`: watching first, then asleep.
    fn next_job(&self, seen: usize) -> usize {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                let jobs = self.jobs.load(Acquire);
                if jobs != seen {
                    return jobs;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > WATCH {
                break;
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.asleep.fetch_add(1, SeqCst);
        // Either this sees the new job, or its caller sees someone asleep and rings.
        while self.jobs.load(SeqCst) == seen {
            bed = self.bell.wait(bed).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.asleep.fetch_sub(1, SeqCst);
        drop(bed);
        self.jobs.load(SeqCst)
    }
}

/// Takes the job's address away when dropped, and waits for the helpers that have it.
struct Closed<'a>(&'a Team);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.job.store(ptr::null_mut(), SeqCst);
        let mut turns = 0u32;
        while self.0.inside.load(SeqCst) > 0 {
            turns += 1;
            if turns.is_multiple_of(1 << 12) {
                // A helper was interrupted in its work: let it have this core.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        std::sync::atomic::fence(Acquire);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_once_whoever_calls() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for tasks in 0..200 {
                        let counts: Vec<_> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                        run(tasks, |i| {
                            counts[i].fetch_add(1, Relaxed);
                        });
                        assert!(counts.iter().all(|count| count.load(Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        for round in 0..50 {
            let failed = catch_unwind(|| {
                run(64, |i| assert!(i != 40, "the task fails"));
            });
            assert!(failed.is_err(), "{round}");
            let sum = AtomicUsize::new(0);
            run(64, |i| {
                sum.fetch_add(i, Relaxed);
            });
            assert_eq!(sum.into_inner(), 2016);
        }
    }

    #[test]
    fn a_pool_of_one_thread_gets_no_helper() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| {
            let me = std::thread::current().id();
            run(100, |_| assert_eq!(std::thread::current().id(), me));
        });
    }
}
