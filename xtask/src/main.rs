//! One command for each thing that a developer or CI does: `cargo xtask --help`.

mod command;
mod fuzz;
mod image;
mod kind;
mod setup;
mod steps;

use std::{ffi::OsString, process::ExitCode};

use clap::{Arg, ArgAction, ArgMatches, Command};

fn main() -> ExitCode {
    let matches = cli().get_matches();
    let Some((name, arguments)) = matches.subcommand() else {
        return ExitCode::FAILURE;
    };
    match dispatch(name, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(name: &str, arguments: &ArgMatches) -> anyhow::Result<()> {
    match name {
        "setup" => setup::setup_and_tell(),
        "build" => {
            let binary = steps::build(arguments.get_flag("release"))?;
            println!("{}", binary.display());
            Ok(())
        }
        "test" => steps::test(&rest(arguments)),
        "demo" => steps::demo(&rest(arguments)),
        "budget" => steps::budget(arguments.get_flag("write")),
        "bench" => steps::bench(&rest(arguments)),
        "fuzz" => fuzz::fuzz(
            arguments.get_one::<String>("target").map(String::as_str),
            arguments.get_one("runs").copied().unwrap_or(1_000_000),
        ),
        "image" => {
            let name = arguments.get_one::<String>("name");
            let file = image::image(
                name.map_or(image::NAME, String::as_str),
                !arguments.get_flag("debug"),
            )?;
            println!("{}", file.display());
            Ok(())
        }
        "kind" => kind::kind(arguments.get_flag("delete")),
        "fmt" => steps::fmt(arguments.get_flag("check")),
        "lint" => steps::lint(),
        "docs" => steps::docs(),
        "deny" => steps::deny(),
        "ci" => steps::ci(),
        other => anyhow::bail!("{other} is declared and not done"),
    }
}

fn rest(arguments: &ArgMatches) -> Vec<OsString> {
    arguments
        .get_many::<OsString>("arguments")
        .unwrap_or_default()
        .cloned()
        .collect()
}

fn cli() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let rest = |help: &'static str| {
        Arg::new("arguments")
            .help(help)
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .value_parser(clap::value_parser!(OsString))
    };
    let step = |name: &'static str, about: &'static str, example: &'static str| {
        Command::new(name)
            .about(about)
            .after_help(format!("Example: cargo xtask {example}"))
    };
    Command::new("cargo xtask")
        .bin_name("cargo xtask")
        .about("One command for each thing that a developer or CI does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([
            step(
                "setup",
                "Find or install the eBPF toolchain, the lab's programs and the test runner",
                "setup",
            ),
            step(
                "build",
                "Build the agent with its kernel programs and print its path",
                "build --release",
            )
            .arg(flag(
                "release",
                "Optimise the agent (the kernel programs always are)",
            )),
            step(
                "test",
                "Run every test: documentation examples, unit tests, packet tables and the lab (as root)",
                "test -E 'package(lb-common)'",
            )
            .arg(rest("Handed to `cargo nextest run`")),
            step(
                "demo",
                "Build everything and play the examples with real packets in the lab (as root)",
                "demo",
            )
            .arg(rest("Handed to the demo")),
            step(
                "bench",
                "Measure Fairlead beside nftables, iptables and no proxy at all, in the lab (as root)",
                "bench --quick",
            )
            .arg(rest("Handed to the benchmark; `--help` lists them")),
            step(
                "budget",
                "Show what the kernel programs cost the verifier, beside what is recorded (as root)",
                "budget --write",
            )
            .arg(flag("write", "Record what was measured in lb-tests/budget.json")),
            step(
                "fuzz",
                "Look for packets and manifests that break a rule, with libFuzzer",
                "fuzz --target packets --runs 100000",
            )
            .arg(
                Arg::new("target")
                    .long("target")
                    .value_name("NAME")
                    .help("One target only")
                    .value_parser(fuzz::TARGETS.map(|(name, _)| name)),
            )
            .arg(
                Arg::new("runs")
                    .long("runs")
                    .value_name("N")
                    .help("Inputs for each target")
                    .default_value("1000000")
                    .value_parser(clap::value_parser!(u64)),
            ),
            step(
                "image",
                "Make the container image: a static agent and nothing else, the same bytes each time, without docker",
                "image --name registry.example/fairlead:0.1.0",
            )
            .arg(
                Arg::new("name")
                    .long("name")
                    .value_name("NAME")
                    .help("The name that the image is known by where it is loaded")
                    .default_value(image::NAME),
            )
            .arg(flag("debug", "Do not optimise the agent: for tests")),
            step(
                "kind",
                "Make a cluster of containers without kube-proxy, with Fairlead, and ask a Service. Needs docker, kind and \
                 kubectl. Has not been run by the project yet",
                "kind",
            )
            .arg(flag("delete", "Take the cluster away")),
            step("fmt", "Format the sources", "fmt --check")
                .arg(flag("check", "Only tell what is not formatted")),
            step(
                "lint",
                "Run clippy, on the kernel programs too; a warning is an error",
                "lint",
            ),
            step("docs", "Make the documentation; a warning is an error", "docs"),
            step(
                "deny",
                "Check licences, duplicates and sources of the dependencies",
                "deny",
            ),
            step(
                "ci",
                "Do everything that CI does: fmt --check, lint, docs, deny, then test (as root)",
                "ci",
            ),
        ])
}

#[cfg(test)]
mod tests {
    use super::cli;

    #[test]
    fn command_line_is_consistent_and_every_subcommand_has_an_example() {
        cli().debug_assert();
        for subcommand in cli().get_subcommands() {
            let help = subcommand
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains(&format!("cargo xtask {}", subcommand.get_name())),
                "{}",
                subcommand.get_name()
            );
        }
    }

    #[test]
    fn test_hands_options_to_the_runner() {
        let matches =
            cli().get_matches_from(["cargo xtask", "test", "-E", "package(lb-common)", "--no-capture"]);
        let (_, arguments) = matches.subcommand().expect("a subcommand");
        assert_eq!(
            super::rest(arguments),
            ["-E", "package(lb-common)", "--no-capture"]
        );
    }
}
