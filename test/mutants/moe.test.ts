import { moeMutants } from './moe.ts';
import { testMutants } from './mutant.ts';

testMutants(moeMutants);
