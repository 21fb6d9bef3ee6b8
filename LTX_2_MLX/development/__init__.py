"""Tools of the developers: fuzzing, full-size plans and errors of quantised weights. Left out of the wheel."""
