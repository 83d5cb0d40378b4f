//! Views in data types that `tch` does not name.

use neva_torch_ffi::view_e8m0;
use tch::{Kind, Tensor};

#[test]
fn bytes_are_powers_of_two() {
    let bytes = [0u8, 1, 126, 127, 128, 254, 255];
    let numbers = view_e8m0(&Tensor::from_slice(&bytes)).unwrap();
    let numbers = Vec::<f64>::try_from(numbers.to_kind(Kind::Double)).unwrap();
    for (byte, number) in bytes.iter().zip(&numbers) {
        match byte {
            255 => assert!(number.is_nan(), "{number}"),
            byte => assert_eq!(*number, 2f64.powi(i32::from(*byte) - 127)),
        }
    }
    let error = view_e8m0(&Tensor::from_slice(&[1i32])).unwrap_err().to_string();
    assert!(error.contains("bytes, not Int"), "{error}");
    let error = view_e8m0(&Tensor::new()).unwrap_err().to_string();
    assert!(error.contains("undefined"), "{error}");
}
