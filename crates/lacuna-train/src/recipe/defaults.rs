//! Fills in the defaults that depend on another key.

use toml::{Table, Value};

/// The corruption of stages whose whole window is one block: Eq. 4 as it stands. A clip at one over the block and a
/// forced mask are for small blocks (SDC §3.3); of a window hardly a draw comes out empty.
const OF_WHOLE_WINDOWS: [(&str, &str); 2] = [("transform", "identity"), ("mask", "bernoulli")];

/// Writes into a recipe as it was read what it leaves open and what follows from the objective of a stage. Whatever has
/// another form than a recipe's is left as it is, for its own error.
pub(super) fn fill_in(recipe: &mut Table) {
    let Some(Value::Array(stages)) = recipe.get_mut("stage") else { return };
    for stage in stages.iter_mut().filter_map(Value::as_table_mut) {
        let objective = stage.get("objective").and_then(Value::as_str);
        if !matches!(objective, Some("full-diffusion" | "causal-diffusion")) {
            continue;
        }
        let corruption = stage.entry("corruption").or_insert_with(|| Table::new().into());
        let Some(corruption) = corruption.as_table_mut() else { continue };
        // The two go together: a stage that names one of them has the usual other.
        if OF_WHOLE_WINDOWS.iter().all(|(key, _)| !corruption.contains_key(*key)) {
            let values = OF_WHOLE_WINDOWS.map(|(key, value)| (key.to_owned(), value.into()));
            corruption.extend(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_of_one_block_are_corrupted_by_equation_4_where_the_recipe_says_nothing_else() {
        let filled = |stages: &str| {
            let mut table: Table = stages.parse().unwrap();
            fill_in(&mut table);
            table
        };
        let plain = "transform = \"identity\"\nmask = \"bernoulli\"\n";
        for objective in ["full-diffusion", "causal-diffusion"] {
            let stage = format!("[[stage]]\nobjective = \"{objective}\"\n");
            let expected = format!("{stage}[stage.corruption]\n{plain}");
            assert_eq!(filled(&stage), expected.parse().unwrap());
            let warm = format!("{stage}[stage.corruption]\nwarmup_steps = 4\n");
            assert_eq!(filled(&warm), format!("{warm}{plain}").parse().unwrap());
            // A rule that the recipe names stays as it is.
            for said in ["mask = \"exact-count\"", "transform = \"block-clip\""] {
                let said = format!("{stage}[stage.corruption]\n{said}\n");
                assert_eq!(filled(&said), said.parse().unwrap());
            }
        }
        for other in [
            "[[stage]]\nobjective = \"block-diffusion\"\n",
            "[[stage]]\nobjective = 3\n",
            "stage = 7\n",
            "stage = [1, 2]\n",
            "[[stage]]\nobjective = \"full-diffusion\"\ncorruption = \"none\"\n",
        ] {
            assert_eq!(filled(other), other.parse().unwrap());
        }
    }
}
