// Entry of the producer tester page.
import { mount } from 'svelte';
import './app.css';
import Producer from './Producer.svelte';
import Shell from './components/Shell.svelte';

const target = document.getElementById('app');
if (target) mount(Shell, { target, props: { role: 'producer', page: Producer } });
