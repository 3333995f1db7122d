//! Works on documents on several threads and hands the results on in the documents' order.

use crate::error::Result;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// The bytes of text that make a parcel: enough to be worth sending, few enough to keep all threads busy.
const PARCEL: usize = 128 << 10;
/// The parcels that are under way for each thread, which bounds the memory.
const UNDER_WAY: usize = 4;

type Parcel<I> = (u64, Vec<I>);
type Done<O> = (u64, thread::Result<Result<Vec<O>>>);

/// Calls `read` with a function that takes items, each with its size in bytes; `work` turns an item into a result on
/// one of `threads` threads; `take` gets the results in the order of the items, on the thread of the caller. So what
/// `take` sees does not depend on the number of threads. At most a few parcels are held at a time.
///
/// # Errors
/// The first error of `read`, `work` or `take`.
pub(crate) fn in_order<I: Send, O: Send, R>(
    threads: NonZeroUsize,
    read: impl FnOnce(&mut dyn FnMut(I, usize) -> Result<()>) -> Result<R>,
    work: impl Fn(I) -> Result<O> + Sync,
    mut take: impl FnMut(O) -> Result<()>,
) -> Result<R> {
    let (jobs, queue) = channel::<Parcel<I>>();
    let (finished, results) = channel::<Done<O>>();
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..threads.get() {
            let finished = finished.clone();
            let (queue, work) = (&queue, &work);
            scope.spawn(move || work_on(queue, &finished, work));
        }
        drop(finished);
        let mut order = Order {
            jobs,
            results,
            parcel: vec![],
            bytes: 0,
            sent: 0,
            taken: 0,
            early: BTreeMap::new(),
        };
        let most = (threads.get() * UNDER_WAY) as u64;
        let outcome = read(&mut |item, bytes| {
            order.parcel.push(item);
            order.bytes += bytes;
            if order.bytes < PARCEL {
                return Ok(());
            }
            order.send();
            order.take_down_to(most, &mut take)
        })?;
        order.send();
        order.take_down_to(0, &mut take)?;
        Ok(outcome)
        // The queue ends with `order`, on an error as well, and so the threads do.
    })
}

/// Takes parcels from the queue until it ends.
fn work_on<I, O>(
    queue: &Mutex<Receiver<Parcel<I>>>,
    finished: &Sender<Done<O>>,
    work: &impl Fn(I) -> Result<O>,
) {
    loop {
        let next = queue.lock().map(|queue| queue.recv());
        let Ok(Ok((number, items))) = next else { return };
        // A panic is handed to the caller, who would else wait for this parcel for ever.
        let done = catch_unwind(AssertUnwindSafe(|| items.into_iter().map(work).collect()));
        if finished.send((number, done)).is_err() {
            return;
        }
    }
}

struct Order<I, O> {
    jobs: Sender<Parcel<I>>,
    results: Receiver<Done<O>>,
    parcel: Vec<I>,
    bytes: usize,
    /// Parcels that were sent, and those whose results were taken.
    sent: u64,
    taken: u64,
    /// Results that came before their turn.
    early: BTreeMap<u64, Vec<O>>,
}

impl<I, O> Order<I, O> {
    fn send(&mut self) {
        if self.parcel.is_empty() {
            return;
        }
        self.bytes = 0;
        let parcel = std::mem::take(&mut self.parcel);
        // Workers live as long as the queue does.
        let sent = self.jobs.send((self.sent, parcel));
        debug_assert!(sent.is_ok(), "no worker is left");
        self.sent += 1;
    }

    /// Waits until at most so many parcels are under way.
    fn take_down_to(&mut self, most: u64, take: &mut impl FnMut(O) -> Result<()>) -> Result<()> {
        while self.sent - self.taken > most {
            let (number, done) = self.results.recv().expect("a worker sends each parcel back");
            let results = done.unwrap_or_else(|panic| resume_unwind(panic))?;
            self.early.insert(number, results);
            while let Some(results) = self.early.remove(&self.taken) {
                results.into_iter().try_for_each(&mut *take)?;
                self.taken += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn run(threads: usize, items: usize) -> Vec<usize> {
        let mut taken = vec![];
        let read = |push: &mut dyn FnMut(usize, usize) -> Result<()>| {
            (0..items).try_for_each(|item| push(item, PARCEL / 3))
        };
        let work = |item: usize| {
            // Later parcels are done first.
            thread::sleep(std::time::Duration::from_micros(((items - item) % 7 * 50) as u64));
            Ok(item * 2)
        };
        in_order(threads.try_into().unwrap(), read, work, |item| {
            taken.push(item);
            Ok(())
        })
        .unwrap();
        taken
    }

    #[test]
    fn results_come_in_the_order_of_the_items_on_any_number_of_threads() {
        let expected: Vec<usize> = (0..200).map(|item| item * 2).collect();
        for threads in [1, 2, 7] {
            assert_eq!(run(threads, 200), expected, "{threads} threads");
        }
        assert_eq!(run(3, 0), [0; 0]);
    }

    #[test]
    fn the_first_error_ends_it_wherever_it_comes_from() {
        fn fail<T>(what: &str) -> Result<T> {
            Err(Error::Packing(what.to_owned()))
        }
        let two = NonZeroUsize::new(2).unwrap();
        type Push<'a> = &'a mut dyn FnMut(usize, usize) -> Result<()>;
        let all = |push: Push<'_>| (0..500).try_for_each(|item| push(item, PARCEL));
        let in_work = |item: usize| if item == 40 { fail("work") } else { Ok(item) };
        let error = in_order(two, all, in_work, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("work"), "{error}");
        let in_take = |item: usize| if item == 40 { fail("take") } else { Ok(()) };
        let error = in_order(two, all, Ok, in_take).unwrap_err();
        assert!(error.to_string().contains("take"), "{error}");
        let in_read = |push: Push<'_>| -> Result<()> {
            push(1, PARCEL)?;
            fail("read")
        };
        let error = in_order(two, in_read, Ok, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("read"), "{error}");
    }

    #[test]
    fn a_panic_of_a_worker_is_the_callers() {
        let two = NonZeroUsize::new(2).unwrap();
        let ran = catch_unwind(|| {
            in_order(
                two,
                |push: &mut dyn FnMut(usize, usize) -> Result<()>| {
                    (0..50).try_for_each(|item| push(item, PARCEL))
                },
                |item| if item == 3 { panic!("on purpose") } else { Ok(item) },
                |_| Ok(()),
            )
        });
        assert!(ran.is_err());
    }
}
