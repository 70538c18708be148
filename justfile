# Shorthands. The checks live in `.ci/run`, which needs nothing but bash.

# All checks, as the CI runs them
default:
    .ci/run

# Formatting
fmt:
    .ci/run fmt

# Lints, as errors
clippy:
    .ci/run clippy

# The tests; one that cannot run on this machine fails
test:
    .ci/run test

# The README's first command, started and stopped
smoke:
    .ci/run smoke

# The tour
demo:
    cargo build --release --bin vault-server --bin vault-cli
    cargo run --release --bin vault-cli -- demo

# Benchmarks of sealing and of the trie
bench:
    cargo bench -p vault-bench

# Everything about a real server under load, beside the limits of what it stands on
bench-quick:
    cargo run --release -p vault-bench -- all --quick

# The storage engines beside each other
engines:
    cargo run --release -p vault-bench -- engines
