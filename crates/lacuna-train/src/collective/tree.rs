//! Orders the sum over a step's micro-batches: a tree that the number of micro-batches alone decides, so that the
//! sum has the same bits however many ranks form it.
//!
//! A node is a range of micro-batches, and its children are its halves, the smaller one first. A rank forms the sums
//! of the largest nodes in its share ([`nodes`]); of those of all ranks, in their order, any rank forms the whole
//! ([`joined`]). One rank holds at most one sum a level at a time.

use std::iter::Peekable;
use std::ops::Range;

use crate::error::Result;

/// The sum over a node; `None` if nothing of it adds anything.
pub(crate) type Part<T> = (Range<usize>, Option<T>);

/// The largest nodes of the tree over `leaves` that lie in a share of it, in order.
pub(crate) fn nodes(leaves: usize, share: &Range<usize>) -> Vec<Range<usize>> {
    let whole = 0..leaves;
    let (mut found, mut open) = (Vec::new(), Vec::from([whole]));
    while let Some(node) = open.pop() {
        if share.start <= node.start && node.end <= share.end {
            found.extend((!node.is_empty()).then_some(node));
        } else if node.start < share.end && share.start < node.end {
            let [left, right] = halves(&node);
            open.extend([right, left]);
        }
    }
    found
}

/// The sum over a node, from what `leaf` gives for each of its micro-batches, called in order.
pub(crate) fn sum<T>(
    node: Range<usize>,
    leaf: &mut impl FnMut(usize) -> Result<Option<T>>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<Option<T>> {
    if node.len() == 1 {
        return leaf(node.start);
    }
    let [left, right] = halves(&node);
    let (left, right) = (sum(left, leaf, add)?, sum(right, leaf, add)?);
    added(left, right, add)
}

/// The sum over the whole tree, from the sums over nodes that together are all of it, in order.
pub(crate) fn joined<T>(
    leaves: usize,
    parts: impl IntoIterator<Item = Part<T>>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<Option<T>> {
    join(0..leaves, &mut parts.into_iter().peekable(), add)
}

fn join<T>(
    node: Range<usize>,
    parts: &mut Peekable<impl Iterator<Item = Part<T>>>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<Option<T>> {
    if let Some((_, part)) = parts.next_if(|(range, _)| *range == node) {
        return Ok(part);
    }
    assert!(node.len() > 1, "the parts are all of the tree");
    let [left, right] = halves(&node);
    let (left, right) = (join(left, parts, add)?, join(right, parts, add)?);
    added(left, right, add)
}

fn added<T>(
    left: Option<T>,
    right: Option<T>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<Option<T>> {
    match (left, right) {
        (Some(left), Some(right)) => add(left, right).map(Some),
        (left, right) => Ok(left.or(right)),
    }
}

fn halves(node: &Range<usize>) -> [Range<usize>; 2] {
    let middle = node.start + node.len() / 2;
    [node.start..middle, middle..node.end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum as it is written down.
    fn written(leaves: usize, ranks: usize) -> String {
        let add = |left: String, right: String| Ok(format!("({left}+{right})"));
        let parts = (0..ranks).flat_map(|rank| {
            let share = leaves * rank / ranks..leaves * (rank + 1) / ranks;
            nodes(leaves, &share).into_iter().map(|node| {
                let mut leaf = |i: usize| Ok(Some(i.to_string()));
                (node.clone(), sum(node, &mut leaf, &add).unwrap())
            })
        });
        joined(leaves, parts, &add).unwrap().unwrap()
    }

    #[test]
    fn the_order_of_a_sum_does_not_depend_on_the_number_of_ranks() {
        assert_eq!(written(5, 1), "((0+1)+(2+(3+4)))");
        for leaves in 1..20 {
            for ranks in 1..9 {
                assert_eq!(written(leaves, ranks), written(leaves, 1), "{leaves} by {ranks}");
            }
        }
    }

    #[test]
    fn a_rank_sends_one_sum_where_its_share_is_a_node() {
        for ranks in [1, 2, 4] {
            for rank in 0..ranks {
                let share = 16 * rank / ranks..16 * (rank + 1) / ranks;
                assert_eq!(nodes(16, &share), std::slice::from_ref(&share));
            }
        }
        assert!(nodes(4, &(1..1)).is_empty());
        assert_eq!(nodes(6, &(2..4)), [2..3, 3..4]);
    }

    #[test]
    fn micro_batches_that_add_nothing_are_left_out() {
        let add = |left: u32, right: u32| Ok(left * 10 + right);
        let mut leaf = |i: usize| Ok((i % 2 == 1).then_some(i as u32));
        assert_eq!(sum(0..6, &mut leaf, &add).unwrap(), Some(10 + 35));
        assert_eq!(sum(0..1, &mut leaf, &add).unwrap(), None);
    }
}
