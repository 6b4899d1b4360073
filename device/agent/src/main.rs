//! The `motience-device` agent; see [`motience_agent::cli`].

fn main() -> std::process::ExitCode {
    motience_agent::cli::main()
}
