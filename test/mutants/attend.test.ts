import { attendMutants } from './attend.ts';
import { testMutants } from './mutant.ts';

testMutants(attendMutants);
