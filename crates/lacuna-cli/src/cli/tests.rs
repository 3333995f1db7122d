//! Checks that what the help says can be typed.

use super::*;

/// The words of a line as a shell takes them.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().expect("begun with one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The calls of the program in the examples of a command.
fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().or(command.get_long_about()).expect("examples");
    let help = help.to_string();
    let lines = help.lines().filter(|line| line.starts_with("  ") || line.starts_with("Example: "));
    // Remarks stand behind two blanks; other programs stand around.
    let call = |line: &str| {
        let line = line.trim_start_matches("Example: ").trim().split("  ").next()?;
        let line = line.split(" && ").next()?.split(" > ").next()?;
        Some(line[line.find("lacuna ")?..].to_owned())
    };
    lines.filter_map(call).collect()
}

#[test]
fn every_command_has_examples_that_can_be_typed_as_they_stand() {
    let program = Cli::command();
    for command in program.get_subcommands() {
        let calls = examples(command);
        let own = format!("lacuna {} ", command.get_name());
        assert!(calls.iter().any(|call| call.starts_with(&own)), "{own}has no example");
        for call in calls {
            let parsed = Cli::command().try_get_matches_from(words(&call));
            let parsed = parsed.map_err(|error| error.to_string());
            assert!(parsed.is_ok(), "{call}: {}", parsed.map(|_| ()).unwrap_err());
        }
    }
    for call in examples(&program) {
        let parsed = Cli::command().try_get_matches_from(words(&call));
        assert!(parsed.is_ok(), "{call}: {}", parsed.map(|_| ()).unwrap_err());
    }
}

#[test]
fn an_example_is_one_line_of_a_terminal_so_that_it_can_be_copied() {
    let program = Cli::command();
    for command in program.get_subcommands().chain([&program]) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let wide = help.lines().find(|l| l.starts_with("  ") && l.chars().count() > 80);
        assert_eq!(wide, None, "{}", command.get_name());
    }
}

#[test]
fn positionals_stand_first_under_their_own_heading() {
    let mut program = Cli::command();
    program.build();
    for command in program.get_subcommands_mut() {
        let with_heading = command.get_positionals().find(|arg| arg.get_help_heading().is_some());
        assert!(with_heading.is_none(), "{}", command.get_name());
    }
}

#[test]
fn flags_stand_under_the_heading_of_what_they_belong_to() {
    let model = ["model", "dtype", "device", "memory"];
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        for arg in command.get_arguments() {
            let own = !model.contains(&arg.get_id().as_str());
            let heading = arg.get_help_heading();
            assert!(
                !own || heading != Some("Model"),
                "{name}: {} is no matter of the model",
                arg.get_id()
            );
        }
    }
}

#[test]
fn a_number_below_zero_is_a_value_of_every_flag_that_has_one() {
    let mut built = program();
    built.build();
    for command in built.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
            let Some(flag) = arg.get_long().filter(|_| arg.get_action().takes_values()) else {
                continue;
            };
            let parsed =
                program().try_get_matches_from(["lacuna", name, &format!("--{flag}"), "-1"]);
            let kind = parsed.map_err(|error| error.kind()).err();
            assert_ne!(kind, Some(ErrorKind::UnknownArgument), "{name} --{flag} -1");
        }
    }
}

#[test]
fn a_number_out_of_range_is_named_with_its_flag() {
    let told = |line: &str| {
        program().try_get_matches_from(line.split(' ')).map(drop).unwrap_err().to_string()
    };
    for (line, flag) in [
        ("lacuna inspect M --threads -1", "--threads"),
        ("lacuna inspect M --threads -inf", "--threads"),
        ("lacuna pack --tokenizer T --out O I --max-document-bytes -5", "--max-document-bytes"),
        ("lacuna train R --resume-step -2", "--resume-step"),
        ("lacuna edit --model M F --instruction i --lines -1:2", "--lines"),
        ("lacuna edit --model M F --instruction i --at -1", "--at"),
        ("lacuna fill --model M F --at -1:2", "--at"),
    ] {
        let told = told(line);
        assert!(told.starts_with("error: invalid value '-") && told.contains(flag), "{told}");
    }
}

#[test]
fn help_fits_a_terminal_of_80_columns() {
    let mut program = Cli::command().term_width(80);
    program.build();
    for command in program.get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        let wide = help.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{}", command.get_name());
    }
}

#[test]
fn the_definitions_of_all_commands_agree_with_themselves() {
    Cli::command().debug_assert();
}

#[test]
fn a_sandbox_is_asked_for_alone_as_it_is_among_all_commands() {
    let both = |line: &str| {
        let words = words(line);
        let alone = sandboxed(words.iter().map(Into::into));
        let among = program().try_get_matches_from(&words);
        let among = among.map(|matches| Cli::from_arg_matches(&matches).unwrap().command).ok();
        (alone.map(|args| format!("{args:?}")), among.map(|command| format!("{command:?}")))
    };
    for line in [
        "lacuna sandbox -- /bin/true",
        "lacuna sandbox --profile files --folder d --time 2 --memory 1GB --json -- /bin/sh -c 'a b'",
        "lacuna sandbox --readable f --stdin --unsafe-execution -- prog --help",
    ] {
        let (alone, among) = both(line);
        assert_eq!(alone.map(|args| format!("Sandbox({args})")), among, "{line}");
    }
    // Everything else is left to the whole parser.
    for line in [
        "lacuna",
        "lacuna sandbox",
        "lacuna sandbox --help",
        "lacuna sandbox --threads 2 -- /bin/true",
        "lacuna sandbox --nonsense -- /bin/true",
        "lacuna generate -m M x",
    ] {
        assert_eq!(both(line).0, None, "{line}");
    }
}
