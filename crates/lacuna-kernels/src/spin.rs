//! Runs short pieces of work on a spin pool: a few threads that wait for it without sleeping between one piece and
//! the next.
//!
//! A decoding pass is hundreds of products of some ten microseconds each. Waking a sleeping thread
//! takes longer than that, so the workers here spin for a while before they sleep, and a caller never
//! waits for a worker that has not come: it does the work itself.
#![allow(
    unsafe_code,
    reason = "jobs on the stack of a caller who waits, columns that tasks write each once"
)]

mod columns;

pub(crate) use columns::{Columns, Fill};

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// The time that a worker spins without work before it sleeps.
const SPIN: Duration = Duration::from_micros(200);

/// Runs `task` once for each number below `tasks`, on this thread and as many workers as the
/// current rayon pool has further threads. If the workers are busy for someone else, this thread
/// does everything.
pub(crate) fn run(tasks: usize, task: impl Fn(usize) + Sync) {
    let workers = (rayon::current_num_threads() - 1).min(tasks.saturating_sub(1));
    let pool = (workers > 0).then(Pool::get).flatten();
    match pool.and_then(|pool| Some((pool, pool.free()?))) {
        Some((pool, _only_caller)) => pool.run(tasks, workers, &task),
        None => (0..tasks).for_each(task),
    }
}

/// [`run`] for tasks that own what they work on.
pub(crate) fn each<T: Send>(tasks: Vec<T>, work: impl Fn(T) + Sync) {
    let tasks: Vec<Mutex<Option<T>>> =
        tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    run(tasks.len(), |number| {
        let task = tasks[number].lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        work(task.expect("each number comes once"));
    });
}

/// The tasks of one call of [`run`], on their caller's stack.
///
/// The tasks' numbers are dealt out in runs, one for each thread that may work, so that neighbouring tasks (which
/// mostly read neighbouring memory) stay on one core; a thread that is done with its run helps with the others.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    runs: Vec<Run>,
    /// Workers that have come.
    workers: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The numbers of tasks that are still to be taken, on a cache line of their own.
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
        Self { task, runs, workers: AtomicUsize::new(0), panic: Mutex::new(None) }
    }

    /// Runs tasks until none is left, beginning with those of run `own`.
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

    /// [`Self::work`] for a worker, if there is a run left for it. A panic is kept for the caller.
    fn help(&self) {
        let own = self.workers.fetch_add(1, Relaxed) + 1;
        if own >= self.runs.len() {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(own))) {
            self.runs.iter().for_each(|run| run.next.store(run.end, Relaxed));
            *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        }
    }
}

struct Pool {
    /// Held by the one caller who has the workers.
    caller: Mutex<()>,
    /// The job under way, or null.
    job: AtomicPtr<Job<'static>>,
    /// The number of jobs so far, which spinning workers watch.
    jobs: AtomicUsize,
    /// The number of workers that may hold the job's address.
    inside: AtomicUsize,
    asleep: AtomicUsize,
    parked: Mutex<()>,
    wake: Condvar,
}

impl Pool {
    /// The right to be the caller, if nobody has it. A pool whose caller panicked is as good as new: [`Closed`] has
    /// ended that job.
    fn free(&self) -> Option<MutexGuard<'_, ()>> {
        match self.caller.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The process's pool; none if not a single worker could be started.
    fn get() -> Option<&'static Self> {
        static POOL: OnceLock<Option<&'static Pool>> = OnceLock::new();
        *POOL.get_or_init(|| {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
            let workers = cores.max(rayon::current_num_threads()) - 1;
            let pool: &'static Pool = Box::leak(Box::new(Pool {
                caller: Mutex::new(()),
                job: AtomicPtr::new(ptr::null_mut()),
                jobs: AtomicUsize::new(0),
                inside: AtomicUsize::new(0),
                asleep: AtomicUsize::new(0),
                parked: Mutex::new(()),
                wake: Condvar::new(),
            }));
            let start = |number: usize| {
                let thread = std::thread::Builder::new().name(format!("lacuna-{number}"));
                thread.spawn(move || pool.serve()).is_ok()
            };
            (0..workers).filter(|number| start(*number)).count().gt(&0).then_some(pool)
        })
    }

    fn run(&self, tasks: usize, workers: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job::new(tasks, workers + 1, task);
        {
            // However this block is left, no worker is with the job afterwards.
            let _closed = Closed(self);
            self.job.store((&raw const job).cast_mut().cast(), SeqCst);
            self.jobs.fetch_add(1, SeqCst);
            if self.asleep.load(SeqCst) > 0 {
                let _parked = self.parked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.wake.notify_all();
            }
            job.work(0);
        }
        let panic = job.panic.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Does one job after another: what a worker's thread runs.
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

    /// Waits until there has been a job after number `seen`: spinning first, then asleep.
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
            if start.elapsed() > SPIN {
                break;
            }
        }
        let mut parked = self.parked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.asleep.fetch_add(1, SeqCst);
        // Either this sees the new job, or its caller sees someone asleep and wakes it.
        while self.jobs.load(SeqCst) == seen {
            parked = self.wake.wait(parked).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.asleep.fetch_sub(1, SeqCst);
        drop(parked);
        self.jobs.load(SeqCst)
    }
}

/// Takes the job's address away when dropped, and waits for the workers that have it.
struct Closed<'a>(&'a Pool);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.job.store(ptr::null_mut(), SeqCst);
        let mut turns = 0u32;
        while self.0.inside.load(SeqCst) > 0 {
            turns += 1;
            if turns.is_multiple_of(1 << 12) {
                // A worker was interrupted in its work: let it have this core.
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
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
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
    fn a_panic_does_not_leave_later_callers_alone() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        pool.install(|| {
            assert!(catch_unwind(|| run(8, |_| panic!("every task fails"))).is_err());
            // Another test may have the workers for a while.
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let threads = Mutex::new(std::collections::HashSet::new());
                run(64, |_| {
                    threads.lock().unwrap().insert(std::thread::current().id());
                    std::thread::sleep(Duration::from_micros(100));
                });
                if threads.into_inner().unwrap().len() > 1 {
                    break;
                }
                assert!(Instant::now() < deadline, "no worker came within a minute");
            }
        });
    }

    #[test]
    fn a_pool_of_one_thread_gets_no_worker() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        pool.install(|| {
            let me = std::thread::current().id();
            run(100, |_| assert_eq!(std::thread::current().id(), me));
        });
    }
}
