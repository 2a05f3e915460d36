//! Decoding of a chunked request body: its result does not depend on later bytes, and it is complete only at its end.

#![no_main]

use img_classification_fuzz::front::chunked::decode;
use img_classification_fuzz::front::limits::MAX_BODY;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match decode(input) {
        Ok(Some((body, length))) => {
            assert!(body.len() <= MAX_BODY && length <= input.len());
            assert!(input[..length].ends_with(b"\r\n"));
            assert_eq!(decode(&input[..length]), Ok(Some((body, length))), "later bytes change the body");
            assert_eq!(decode(&input[..length - 1]), Ok(None), "complete or rejected one byte earlier");
        }
        Ok(None) => {}
        Err(error) if error.to_status().0 == 413 => {}
        Err(error) => {
            let longer = [input, b"\r\n0\r\n\r\n"].concat();
            assert_eq!(decode(&longer), Err(error), "later bytes change the error");
        }
    }
});
