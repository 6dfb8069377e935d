#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ensign_fuzz::plan_file(data));
