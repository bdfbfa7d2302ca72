import { kdaMutants } from './kda.ts';
import { testMutants } from './mutant.ts';

testMutants(kdaMutants);
