//! libFuzzer around [`lb_tests::fuzz::manifests`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Err(broken) = lb_tests::fuzz::manifests::check(input) {
        panic!("{broken}");
    }
});
