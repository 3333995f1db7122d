//! Deals out the rows of a pool of keys and values: each text has a stretch of its own, which grows with it.

use crate::error::{Error, Result};

/// A text's stretch of the pool, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CacheId(pub(super) u64);

/// Rows that change their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) rows: usize,
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    id: CacheId,
    first: usize,
    capacity: usize,
    /// Rows that hold something, from the first on.
    used: usize,
}

/// The stretches of a pool, ascending and apart.
#[derive(Debug)]
pub(super) struct Pool {
    rows: usize,
    stretches: Vec<Stretch>,
    next: u64,
}

impl Pool {
    pub(super) fn new(rows: usize) -> Self {
        Self { rows, stretches: Vec::new(), next: 0 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A stretch of so many rows, and what has to move for it.
    pub(super) fn take(&mut self, capacity: usize) -> Result<(CacheId, Vec<Move>)> {
        let first = self.stretches.last().map_or(0, |last| last.first + last.capacity);
        let id = CacheId(self.next);
        self.stretches.push(Stretch { id, first, capacity: 0, used: 0 });
        match self.grow(id, capacity) {
            Ok(moves) => {
                self.next += 1;
                Ok((id, moves))
            }
            Err(error) => {
                self.stretches.pop();
                Err(error)
            }
        }
    }

    /// Gives a stretch back; one that is not there is left alone.
    pub(super) fn give_back(&mut self, id: CacheId) {
        self.stretches.retain(|one| one.id != id);
    }

    /// Sees to it that a stretch has so many rows, and says what has to move for it, in that order.
    ///
    /// Where it can't grow in its place, those before it move to the front and those behind it to the end, so that all
    /// the room there is lies behind it.
    pub(super) fn grow(&mut self, id: CacheId, capacity: usize) -> Result<Vec<Move>> {
        let at = self.place(id)?;
        let own = self.stretches[at];
        if capacity <= own.capacity {
            return Ok(Vec::new());
        }
        let next = self.stretches.get(at + 1).map_or(self.rows, |next| next.first);
        if own.first + capacity <= next {
            self.stretches[at].capacity = capacity;
            return Ok(Vec::new());
        }
        let taken: usize = self.stretches.iter().map(|one| one.capacity).sum();
        if taken - own.capacity + capacity > self.rows {
            let (rows, others) = (self.rows, taken - own.capacity);
            return Err(Error::NoRoom { tokens: capacity, others, rows });
        }
        let mut moves = Vec::new();
        let mut end = 0;
        for one in &mut self.stretches[..=at] {
            one.shift(end, &mut moves);
            end += one.capacity;
        }
        let mut begin = self.rows;
        for one in self.stretches[at + 1..].iter_mut().rev() {
            begin -= one.capacity;
            one.shift(begin, &mut moves);
        }
        self.stretches[at].capacity = capacity;
        Ok(moves)
    }

    /// The first row of a stretch.
    pub(super) fn first(&self, id: CacheId) -> Result<usize> {
        Ok(self.stretches[self.place(id)?].first)
    }

    /// Says that a stretch holds something in its first `rows` rows.
    pub(super) fn use_rows(&mut self, id: CacheId, rows: usize) -> Result<()> {
        let at = self.place(id)?;
        let one = &mut self.stretches[at];
        if rows > one.capacity {
            let room = one.capacity;
            return Err(Error::Input(format!("{rows} tokens of a cache that has room for {room}")));
        }
        one.used = one.used.max(rows);
        Ok(())
    }

    fn place(&self, id: CacheId) -> Result<usize> {
        let found = self.stretches.iter().position(|one| one.id == id);
        found.ok_or_else(|| Error::Input("a cache that was given back".into()))
    }
}

impl Stretch {
    fn shift(&mut self, to: usize, moves: &mut Vec<Move>) {
        if to != self.first && self.used > 0 {
            moves.push(Move { from: self.first, to, rows: self.used });
        }
        self.first = to;
    }
}

impl Move {
    /// The same in pieces that do not overlap what they are copied to, in an order in which nothing is overwritten before it
    /// has moved.
    pub(super) fn pieces(self) -> impl Iterator<Item = Self> {
        let Self { from, to, rows } = self;
        let most = from.abs_diff(to).max(1);
        (0..rows.div_ceil(most)).map(move |i| {
            // Down from the front, up from the end.
            let first = if to < from { i * most } else { rows.saturating_sub((i + 1) * most) };
            let end = if to < from { rows.min(first + most) } else { rows - i * most };
            Self { from: from + first, to: to + first, rows: end - first }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use super::*;

    /// The pool, and in each row the text that it is of with the row's number.
    struct Rows {
        pool: Pool,
        held: Vec<(u64, usize)>,
    }

    impl Rows {
        fn follow(&mut self, moves: Vec<Move>) {
            for piece in moves.into_iter().flat_map(Move::pieces) {
                let Move { from, to, rows } = piece;
                assert!(from.abs_diff(to) >= rows, "{piece:?} overlaps");
                self.held.copy_within(from..from + rows, to);
            }
        }

        fn write(&mut self, id: CacheId, rows: std::ops::Range<usize>) {
            let first = self.pool.first(id).unwrap();
            self.pool.use_rows(id, rows.end).unwrap();
            rows.for_each(|row| self.held[first + row] = (id.0, row));
        }

        fn expect(&self, id: CacheId, rows: usize) {
            let first = self.pool.first(id).unwrap();
            let expected: Vec<_> = (0..rows).map(|row| (id.0, row)).collect();
            assert_eq!(self.held[first..first + rows], expected);
        }
    }

    #[test]
    fn texts_grow_in_any_order_and_keep_what_they_hold() {
        const ROWS: usize = 400;
        let mut rows = Rows { pool: Pool::new(ROWS), held: vec![(u64::MAX, 0); ROWS] };
        let mut alive: Vec<(CacheId, usize)> = Vec::new();
        let mut state = 7u64;
        let (mut refused, mut moved) = (0, 0);
        for _ in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let dice = (state >> 33) as usize;
            match dice % 8 {
                0 | 1 => match rows.pool.take(dice / 8 % 60 + 1) {
                    Ok((id, moves)) => {
                        moved += moves.len();
                        rows.follow(moves);
                        alive.push((id, 0));
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
                        refused += 1;
                    }
                },
                2 if !alive.is_empty() => {
                    let (id, _) = alive.swap_remove(dice / 8 % alive.len());
                    rows.pool.give_back(id);
                }
                _ if !alive.is_empty() => {
                    let at = dice / 8 % alive.len();
                    let (id, used) = alive[at];
                    let more = used + dice / 64 % 40;
                    if let Ok(moves) = rows.pool.grow(id, more) {
                        moved += moves.len();
                        rows.follow(moves);
                        rows.write(id, used..more);
                        alive[at].1 = more;
                    }
                }
                _ => {}
            }
            alive.iter().for_each(|(id, used)| rows.expect(*id, *used));
        }
        assert!(refused > 10 && moved > 100, "{refused} refused, {moved} moved");
    }

    #[test]
    fn what_no_arrangement_has_room_for_is_refused_with_the_numbers() {
        let mut pool = Pool::new(100);
        let (first, _) = pool.take(60).unwrap();
        let error = pool.take(50).unwrap_err().to_string();
        assert!(error.contains("50 tokens") && error.contains("100"), "{error}");
        assert!(pool.take(40).is_ok() && pool.grow(first, 61).is_err());
    }
}
