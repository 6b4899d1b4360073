// Entry of the consumer tester page.
import { mount } from 'svelte';
import './app.css';
import Consumer from './Consumer.svelte';
import Shell from './components/Shell.svelte';

const target = document.getElementById('app');
if (target) mount(Shell, { target, props: { role: 'consumer', page: Consumer } });
