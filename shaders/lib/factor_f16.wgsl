// factor_f16: the factors of a chunk's products are rounded to f16, which matrix units take.
enable f16;
alias factor = f16;
alias factor4 = vec4<f16>;
