import { decodeMutants } from './decode.ts';
import { testMutants } from './mutant.ts';

testMutants(decodeMutants);
