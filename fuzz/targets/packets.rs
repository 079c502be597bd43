//! libFuzzer around [`lb_tests::fuzz::packets`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Err(broken) = lb_tests::fuzz::packets::check(input) {
        panic!("{broken}");
    }
});
