// usage: node lint.mjs README.md : all rules of awesome-lint but `awesome-github`, which needs a repository on GitHub.
// Exit status 1 on any error; warnings (spelling of product names) are printed only.
import process from 'node:process';
import path from 'node:path';
import awesomeLint from './node_modules/awesome-lint/index.js';
import {createConfig} from './node_modules/awesome-lint/config.js';
import {createRules} from './node_modules/awesome-lint/rules/index.js';

const file = path.resolve(process.argv[2]);
process.chdir(path.dirname(file));
const all = createRules();
const rules = all.filter(([rule]) => rule.name !== 'remark-lint:awesome-github');
if (rules.length !== all.length - 1) {
	throw new Error('awesome-lint has no rule named awesome-github any more: look at its rules/index.js');
}

const vfiles = await awesomeLint({filename: path.basename(file), config: createConfig(rules)});
const messages = vfiles.flatMap(vfile => vfile.messages);
const errors = messages.filter(message => message.ruleId !== 'awesome-spell-check');
for (const message of messages) {
	console.log(`${path.basename(file)}:${message.line ?? 1}:${message.column ?? 1} ${message.ruleId}: ${message.reason}`);
}

console.log(errors.length === 0 ? 'ok: awesome-lint finds no error' : `${errors.length} errors`);
process.exit(errors.length === 0 ? 0 : 1);
