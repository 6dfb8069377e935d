//! `cargo run -p ensign-tests --bin mutants [--list] [PART OF A NAME]`: takes each check of the acceptance function away, one at a
//! time, and says which test noticed. Ends with 1 where nobody did.

use std::process::ExitCode;

use anyhow::Result;
use ensign_tests::mutants;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let list = words.first().is_some_and(|word| word == "--list");
    if list {
        words.remove(0);
    }
    let filter = words.join(" ");
    match work(list, &filter) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(list: bool, filter: &str) -> Result<ExitCode> {
    if list {
        for name in mutants::names()?.iter().filter(|name| name.contains(filter)) {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let outcomes = mutants::run(filter, |outcome| match (&outcome.caught_by, outcome.equal) {
        (Some(tests), _) => println!("caught  {} ({})", outcome.name, tests.join(", ")),
        (None, Some(why)) => println!("equal   {} ({why})", outcome.name),
        (None, None) => println!("MISSED  {}", outcome.name),
    })?;
    let missed = outcomes.iter().filter(|outcome| outcome.is_missed()).count();
    println!("{} checks taken away, {missed} missed", outcomes.len());
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
