import { mlaMutants } from './mla.ts';
import { testMutants } from './mutant.ts';

testMutants(mlaMutants);
