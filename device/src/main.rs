//! The `motience-device` agent; see [`motience_device::agent::cli`].

fn main() -> std::process::ExitCode {
    motience_device::agent::cli::main()
}
