// factor_f32: the factors of a chunk's products are stored as they are.
alias factor = f32;
alias factor4 = vec4f;
