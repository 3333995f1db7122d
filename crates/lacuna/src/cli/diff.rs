//! A unified diff of two texts, line by line.

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// One line of a diff: in both texts, or in one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit<'a> {
    Same(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// The change from `old` to `new` as `diff -u` writes it; empty if there is none.
pub(crate) fn unified(old: &str, new: &str, name: &str) -> String {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let edits = edits(&old, &new);
    let changed: Vec<usize> =
        (0..edits.len()).filter(|&at| !matches!(edits[at], Edit::Same(_))).collect();
    let mut out = String::new();
    if !changed.is_empty() {
        let name = name.trim_start_matches('/');
        out = format!("--- a/{name}\n+++ b/{name}\n");
    }
    // Changes whose contexts touch share a hunk.
    for hunk in changed.chunk_by(|a, b| b - a <= 2 * CONTEXT) {
        let begin = hunk[0].saturating_sub(CONTEXT);
        let end = (hunk[hunk.len() - 1] + CONTEXT + 1).min(edits.len());
        let count = |edits: &[Edit<'_>], old: bool| {
            let counts = |edit: &&Edit<'_>| match edit {
                Edit::Same(_) => true,
                Edit::Old(_) => old,
                Edit::New(_) => !old,
            };
            edits.iter().filter(counts).count()
        };
        let range = |old: bool| {
            let (before, length) = (count(&edits[..begin], old), count(&edits[begin..end], old));
            format!("{},{length}", if length == 0 { before } else { before + 1 })
        };
        out.push_str(&format!("@@ -{} +{} @@\n", range(true), range(false)));
        for edit in &edits[begin..end] {
            let (sign, line) = match edit {
                Edit::Same(line) => (' ', line),
                Edit::Old(line) => ('-', line),
                Edit::New(line) => ('+', line),
            };
            out.push(sign);
            out.push_str(line);
            if !line.ends_with('\n') {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    out
}

/// A shortest way from `old` to `new` (Myers 1986); of texts too different for that, all out and all in.
fn edits<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Edit<'a>> {
    let both = old.iter().zip(new);
    let head = both.take_while(|(a, b)| a == b).count();
    let both = old[head..].iter().rev().zip(new[head..].iter().rev());
    let tail = both.take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut edits: Vec<Edit<'_>> = old[..head].iter().map(|line| Edit::Same(line)).collect();
    edits.extend(between(a, b));
    edits.extend(old[old.len() - tail..].iter().map(|line| Edit::Same(line)));
    edits
}

/// [`edits`] of what is left without common beginning and end.
fn between<'a>(a: &[&'a str], b: &[&'a str]) -> Vec<Edit<'a>> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    // furthest[k + n + m]: how far in `a` a path with d edits gets on diagonal k; one copy per d.
    let mut furthest = vec![0isize; (2 * (n + m) + 3) as usize];
    let slot = |k: isize| (k + n + m + 1) as usize;
    let down = |furthest: &[isize], k: isize, d: isize| {
        k == -d || (k != d && furthest[slot(k - 1)] < furthest[slot(k + 1)])
    };
    let mut rounds = Vec::new();
    // The rounds kept take d² numbers: texts that share next to nothing are simply replaced.
    const ROUNDS_MAX: isize = 3000;
    'search: for d in 0..=n + m {
        if d > ROUNDS_MAX {
            let (old, new) =
                (a.iter().map(|line| Edit::Old(line)), b.iter().map(|line| Edit::New(line)));
            return old.chain(new).collect();
        }
        // Only the diagonals that the next round reads are kept.
        rounds.push(furthest[slot(-d - 1)..=slot(d + 1)].to_vec());
        for k in (-d..=d).step_by(2) {
            let mut x = match down(&furthest, k, d) {
                true => furthest[slot(k + 1)],
                false => furthest[slot(k - 1)] + 1,
            };
            while x < n && x - k < m && a[x as usize] == b[(x - k) as usize] {
                x += 1;
            }
            furthest[slot(k)] = x;
            if x >= n && x - k >= m {
                break 'search;
            }
        }
    }
    let (mut x, mut y) = (n, m);
    let mut reversed = Vec::new();
    for d in (0..rounds.len() as isize).rev() {
        let round = &rounds[d as usize];
        let at = |k: isize| round[(k + d + 1) as usize];
        let k = x - y;
        let insertion = k == -d || (k != d && at(k - 1) < at(k + 1));
        let from_k = if insertion { k + 1 } else { k - 1 };
        let (from_x, from_y) = if d == 0 { (0, 0) } else { (at(from_k), at(from_k) - from_k) };
        while x > from_x && y > from_y {
            (x, y) = (x - 1, y - 1);
            reversed.push(Edit::Same(a[x as usize]));
        }
        if d > 0 {
            (x, y) = (from_x, from_y);
            reversed.push(if insertion {
                Edit::New(b[y as usize])
            } else {
                Edit::Old(a[x as usize])
            });
        }
    }
    reversed.reverse();
    reversed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two texts that a list of edits speaks of.
    fn texts(edits: &[Edit<'_>]) -> (String, String) {
        let (mut old, mut new) = (String::new(), String::new());
        for edit in edits {
            match edit {
                Edit::Same(line) => {
                    old.push_str(line);
                    new.push_str(line);
                }
                Edit::Old(line) => old.push_str(line),
                Edit::New(line) => new.push_str(line),
            }
        }
        (old, new)
    }

    #[test]
    fn a_diff_holds_both_texts_and_is_as_short_as_can_be() {
        // All pairs of texts of up to five lines from two; the shortest length by brute force.
        let lines = ["a\n", "b\n"];
        let all: Vec<Vec<&str>> = (0..6u32)
            .flat_map(|len| (0..1u32 << len).map(move |bits| (len, bits)))
            .map(|(len, bits)| (0..len).map(|i| lines[(bits >> i & 1) as usize]).collect())
            .collect();
        for a in &all {
            for b in &all {
                let found = edits(a, b);
                assert_eq!(texts(&found), (a.concat(), b.concat()));
                let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
                for (i, x) in a.iter().enumerate() {
                    for (j, y) in b.iter().enumerate() {
                        common[i + 1][j + 1] = if x == y {
                            common[i][j] + 1
                        } else {
                            common[i][j + 1].max(common[i + 1][j])
                        };
                    }
                }
                let changes = found.iter().filter(|e| !matches!(e, Edit::Same(_))).count();
                assert_eq!(
                    changes,
                    a.len() + b.len() - 2 * common[a.len()][b.len()],
                    "{a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn texts_that_share_nothing_are_replaced() {
        let lines = |name: &str| (0..2000).map(|i| format!("{name}{i}\n")).collect::<Vec<_>>();
        let (old, new) = (lines("a"), lines("b"));
        let [a, b] = [&old, &new].map(|text| text.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(texts(&edits(&a, &b)), (old.concat(), new.concat()));
    }

    #[test]
    fn hunks_have_their_places_and_a_missing_last_line_end_is_said() {
        let old: String = (1..=20).map(|i| format!("{i}\n")).collect();
        let new = old.replace("\n3\n", "\nthree\n").replace("\n20\n", "\n20");
        let expected = "--- a/f\n+++ b/f\n@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n@@ -17,4 +17,4 @@\n \
                        17\n 18\n 19\n-20\n+20\n\\ No newline at end of file\n";
        assert_eq!(unified(&old, &new, "f"), expected);
        assert_eq!(unified(&old, &old, "f"), "");
        assert_eq!(unified("", "a\n", "f"), "--- a/f\n+++ b/f\n@@ -0,0 +1,1 @@\n+a\n");
    }
}
