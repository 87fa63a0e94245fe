# ptv2: `make test` is what a developer types.
.PHONY: libtorch test

libtorch:
	@[ -n "$$LIBTORCH" ] || scripts/libtorch.sh target/libtorch

test: libtorch
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace
