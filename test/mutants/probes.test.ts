import { testMutants } from './mutant.ts';
import { probeMutants } from './probes.ts';

testMutants(probeMutants);
